"""What a user sees on the terminal when something is wrong: one line of safe text, and no notes of libraries."""

import contextlib


class FpganError(Exception):
    """A mistake that the user can mend: says what was wrong, what was expected, and how to mend it.

    The command line prints the message on standard error and exits with code 2.
    """


def missing_extra(module: str, extra: str) -> FpganError:
    """Returns the error for an optional dependency that is not installed.

    Args:
      module: the import name that is missing, e.g. "optax".
      extra: the extra of fpgan that brings it, e.g. "train".
    """
    return FpganError(f"the package {module!r} is not installed; install it with: pip install 'fpgan[{extra}]'"
                      f" (in a checkout: pip install -e '.[{extra}]')")


def printable(text: str) -> str:
    """Escapes control characters and undecodable bytes, so that a file's name or content cannot steer the terminal.

    Returns:
      One line that can be written as UTF-8.
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def shown(value, most: int = 200) -> str:
    """Returns a value of a file or a command line as it may stand in a message: printable, on one line, cut to `most`."""
    text = value if isinstance(value, str) else repr(value)
    return printable(text[:most]) + ("..." if len(text) > most else "")


def reason(error: BaseException) -> str:
    """Says in one line why an exception was raised."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.split("\n")[0] or type(error).__name__


@contextlib.contextmanager
def quiet_absl():
    """Keeps the notes and warnings of absl, by which TFDS and orbax log, from the terminal. Errors still show."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
