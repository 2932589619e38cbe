"""The version of this package, below all rooms, so that results and runs can name it."""

__version__ = "0.1.0"
