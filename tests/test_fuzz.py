"""Two thousand damaged files a run, from a seed: each ends in what it holds, or in one FpganError of one line."""

import collections
import io
import json
import os
import random
import string
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from fpgan.attribution import issue, read, read_key, read_users, write
from fpgan.attribution.csv_store import is_registry
from fpgan.attribution.key_store import parse_key
from fpgan.data.folder import list_own_images, read_own_images
from fpgan.errors import FpganError
from fpgan.generation.manifest import ManifestError, Settings, manifest_entry, read_settings
from fpgan.io.images import FORMATS, read_image
from fpgan.io.inputs import decode_text
from fpgan.io.unpickle import read_networks
from fpgan.model.format import read_info, read_params
from fpgan.networks.config import NetworkConfig

SEED, FILES = int(os.environ.get("FPGAN_FUZZ_SEED", 0)), 2000
KEY = "8b4ae5f1a94106a0956a26afbccdafe562f90a945f5693c642276ad5ab2da739"
TOKENS = [b"\0", b"\xff" * 4, b"\xfe\xff", b"\xef\xbb\xbf", b"-1", b"1e999", b"NaN", b"null", b"[" * 5000,
          b'{"a":' * 5000, b"9" * 5000, b"\x1b[2J", "\u200b".encode(), "e\u0301".encode(), b",", b";", b'"', b"\r", b"\n\n",
          b"\x7f\xff\xff\xff", b"\x80\0\0\0"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def mutated(content, rng):
    """Damages bytes: flips, cuts, doubles, moves, or puts tokens in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place, kind = rng.randrange(len(data) + 1), rng.randrange(7)
        head = rng.randrange(min(len(data), 200) + 1)
        if kind == 0 and data:
            data[head % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = rng.randrange(256)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place:place + rng.randrange(1, 40)]
        elif kind == 4:
            data[place:place] = rng.choice(TOKENS)
        elif kind == 5:
            data[head:head + 4] = rng.choice(TOKENS)
        else:
            data[place:place] = data[head:head + rng.randrange(1, 400)]
    return bytes(data)


def _image(format):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)).save(buffer, format)
    return buffer.getvalue()


def _images():
    found = {}
    for name in FORMATS:
        try:
            found[name] = _image(name)
        except (KeyError, OSError):  # this Pillow does not write it
            continue
    return found


def _zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.png", "b/c.png"):
            archive.writestr(name, _image("PNG"))
    return buffer.getvalue()


def _read_zip(path):
    for item in read_own_images(list_own_images(path), 8, "center"):
        assert (item.image is None) == bool(item.problem)


def _read_manifest(path):
    manifest_entry(SETTINGS, 0, path.read_bytes())


SETTINGS = Settings("0" * 16, 128, 1, "0" * 64, "0" * 64, 1, 0, "files", "png", 1, 1)
NETWORK = NetworkConfig(resolution=8, fingerprint_bits=8, latent_size=4, style_size=8, channel_base=32, channel_max=8,
                        mapping_layers=2)


def _read_config(path):
    NetworkConfig.from_dict(read_info(path.parent)["network"])


def _kinds(tmp_path):
    """Name -> (good content, file name, reader)."""
    import jax
    from official_pickles import ORACLES, dump, networks

    from fpgan.model.format import params_bytes
    from fpgan.networks import parameters

    registry = issue(["alice", "Zoë", "b,c"])
    write(registry, tmp_path / "r.csv")
    shapes = parameters.param_shapes(NETWORK, ("generator", "decoder"))
    model = params_bytes(jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes))
    settings = {"fpgan_sample_set": 1} | vars(SETTINGS)
    config = {"format_version": 1, "name": "x", "network": NETWORK.to_dict(), "metrics": {"a": [1, 2.5]}}
    kinds = {f"image {name}": (content, "x.png", lambda path: read_image(path, 8)) for name, content in _images().items()}
    return kinds | {
        "key file": (KEY.encode(), "key", read_key),
        "users file": (b"alice\nbob\n\"c, d\"\n", "users", read_users),
        "registry": ((tmp_path / "r.csv").read_bytes(), "r2.csv", lambda path: (is_registry(path), read(path))),
        "manifest": (SETTINGS.line(0, "alice", "0" * 32, "0" * 64), "m.jsonl", _read_manifest),
        "settings": (json.dumps(settings).encode(), "settings.json", lambda path: read_settings(path.parent)),
        "config.json": (json.dumps(config).encode(), "config.json", _read_config),
        "model file": (model, "model.safetensors", lambda path: read_params(path, path.read_bytes(), NETWORK)),
        "zip": (_zip(), "x.zip", _read_zip),
        "pickle": (dump(networks(ORACLES[0])), "x.pkl", read_networks),
    }


def test_damaged_files_of_every_kind_end_in_one_line(tmp_path):
    rng, outcomes = random.Random(SEED), collections.Counter()
    kinds = _kinds(tmp_path)
    for number in range(FILES):
        kind = list(kinds)[number % len(kinds)]
        good, name, reader = kinds[kind]
        content = mutated(good, rng)
        path = tmp_path / name
        path.write_bytes(content)
        began = time.monotonic()
        try:
            reader(path)
            outcomes[kind, "read"] += 1
        except ManifestError:
            outcomes[kind, "refused"] += 1
        except FpganError as error:
            outcomes[kind, "refused"] += 1
            text = str(error)
            assert "\n" not in text and len(text) < 1500, (kind, number, text[:200])
        assert time.monotonic() - began < 20, (kind, number)
    for kind in kinds:
        print(f"{kind:<16} {outcomes[kind, 'read']:>4} read  {outcomes[kind, 'refused']:>4} refused")
    assert sum(outcomes.values()) == FILES and all(outcomes[kind, "refused"] for kind in kinds if "TGA" not in kind)


def test_a_damaged_key_is_read_as_what_it_says_or_refused():
    rng = random.Random(SEED)
    for _ in range(2000):
        content = mutated(KEY.encode(), rng)
        try:
            key, form = parse_key(content)
        except ValueError:
            continue
        if form == "hexadecimal digits":
            text = decode_text(content)
            assert key.hex() == "".join(letter for letter in text.lower() if letter in string.hexdigits).removeprefix(
                "0" if "x" in text.lower() else "")
        elif form == "base64":
            assert sum(chr(byte) in string.hexdigits for byte in content) < 0.8 * len(content)
        else:
            assert key == content and sum(chr(byte) in string.printable for byte in content) < 0.85 * max(len(content), 1)
