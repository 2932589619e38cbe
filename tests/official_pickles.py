"""Small models of the authors, as pickles with the structure of theirs, and the numbers that they compute.

tests/data holds two instances of their model, computed by their TensorFlow code with every variable random: variables,
inputs, outputs, losses and gradients. Images there are NCHW.
"""

import functools
import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
ORACLES = ("tiny16_mod8to8", "tiny16_labels3_mod4to16")


class Network:
    """Has the name and the state of the authors' class; what it is in memory plays no role."""

    def __init__(self, name, arguments, variables, components=()):
        self.state = {
            "version": 4, "name": name, "static_kwargs": arguments, "components": dict(components),
            "build_module_src": "raise SystemExit('executed')", "build_func_name": f"{name}_func", "variables": variables}

    def __getstate__(self):
        return self.state


@functools.cache
def oracle(name):
    with np.load(DATA / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def part(name, prefix):
    """The arrays of an oracle below a prefix, such as "losses:"."""
    return {key[len(prefix):]: value for key, value in oracle(name).items() if key.startswith(prefix)}


def networks(name):
    """The authors' tuple (E, G, D, Gs); Gs has the oracle's numbers, G others."""
    arguments = json.loads((DATA / f"{name}.json").read_text())

    def network(title, scale=1.0, components=()):
        variables = [(key, value[()] * np.float32(scale))  # [()] makes a scalar of an array without axes, as theirs are
                     for key, value in part(name, f"vars:{title}/").items()]
        return Network(title, arguments[title], variables, components)

    def generator(scale):
        return network("G", 1.0, {"synthesis": network("G_synthesis", scale), "mapping": network("G_mapping", scale)})

    return network("E"), generator(2.0), network("D"), generator(1.0)


def dump(value, protocol=4):
    """Pickles with Network under the authors' name for it, in a module that exists only meanwhile."""
    module = types.ModuleType("dnnlib.tflib.network")
    module.Network = Network
    parents = {"dnnlib": types.ModuleType("dnnlib"), "dnnlib.tflib": types.ModuleType("dnnlib.tflib")}
    Network.__module__, sys.modules[module.__name__] = module.__name__, module
    sys.modules.update(parents)
    try:
        return pickle.dumps(value, protocol)
    finally:
        Network.__module__ = __name__
        for key in (module.__name__, *parents):
            del sys.modules[key]


def edited(edit):
    """The pickle of a model that a function has changed."""
    changed = networks(ORACLES[0])
    edit(changed)
    return dump(changed)
