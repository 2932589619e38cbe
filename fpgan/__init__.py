"""fpgan: fingerprinted generative models in JAX.

    import fpgan
    model = fpgan.load()
    mine = fpgan.Fingerprint.random()
    images = model.generate(mine, seeds=range(4))     # uint8 [4, 32, 32, 3]
    logits = model.decode(images)                     # float32 [4, 128]; bit = logit > 0

Nothing is imported or computed before it is used.
"""

import importlib
from typing import TYPE_CHECKING

from fpgan.version import __version__

if TYPE_CHECKING:
    from fpgan.errors import FpganError
    from fpgan.fingerprint import Fingerprint
    from fpgan.model.model import Model, load

_HOMES = {"load": "fpgan.model", "Model": "fpgan.model", "Fingerprint": "fpgan.fingerprint",
          "FpganError": "fpgan.errors"}
__all__ = ["Fingerprint", "FpganError", "Model", "__version__", "load"]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'fpgan' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted(__all__)
