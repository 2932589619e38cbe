"""A trained model: a thing on disk and in memory, with two compiled programs, `generate` and `decode`."""

import importlib

DEFAULT_MODEL = "robohash64"  # what is loaded when nobody says which
_HOMES = {"FORMAT_VERSION": "format", "MAX_SEED": "model", "Model": "model", "NETWORKS": "format",
          "SHIPPED": "format", "check_place": "format", "decode_fn": "programs",
          "find": "format", "from_params": "model", "generate_fn": "programs", "load": "model",
          "load_discriminator": "format", "param_shapes": "format", "record_metrics": "format",
          "save_model": "format", "shipped_models": "format"}
__all__ = ["DEFAULT_MODEL", *_HOMES]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
