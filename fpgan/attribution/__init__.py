"""Who made an image, and how sure that is: the registry of issued fingerprints, and verdicts against it."""

import importlib

_HOMES = {"Match": "verdict", "Registry": "registry", "Verdict": "verdict", "append": "csv_store", "attribute": "verdict",
          "evenness": "verdict", "from_fingerprints": "registry", "issue": "registry", "open_store": "stores",
          "pool": "soft_decision",
          "read": "csv_store", "read_key": "key_store", "read_users": "csv_store", "write": "csv_store"}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
