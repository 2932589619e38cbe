"""From image files to rows: which fingerprint an image carries, how sure the decoder is, and whose it is."""

import importlib

_HOMES = {"BatchReader": "batches", "Counts": "rows", "DecodeJob": "decode", "Row": "rows", "attribute_rows": "decode",
          "decode_files": "decode", "decode_folder": "shards", "decode_sources": "decode"}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
