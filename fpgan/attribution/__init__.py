"""Who made an image, and how sure that is: the registry of issued fingerprints, and verdicts against it."""

from fpgan.attribution.registry import Registry, append, from_fingerprints, issue, read, read_key, read_users, write
from fpgan.attribution.verdict import Verdict, attribute, evenness

__all__ = ["Registry", "Verdict", "append", "attribute", "evenness", "from_fingerprints", "issue", "read", "read_key",
           "read_users", "write"]
