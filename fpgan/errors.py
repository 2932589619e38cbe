"""What a user sees on the terminal when something is wrong: one line of safe text, and no notes of libraries."""

import contextlib
import errno
import os
import re


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


def shown(value: object, most: int = 200) -> str:
    """Returns a value of a file or a command line as it may stand in a message: printable, on one line, cut to `most`."""
    text = value if isinstance(value, str) else repr(value)
    return printable(text[:most]) + ("..." if len(text) > most else "")


def reason(error: BaseException) -> str:
    """Says in one line why an exception was raised."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.split("\n")[0] or type(error).__name__


def os_reason(error: BaseException) -> str | None:
    """Returns what the operating system said, also where a library hides it in the text of an exception of its own.

    Returns:
      One line such as "No space left on device"; None if the exception is of another kind.
    """
    if isinstance(error, OSError):
        return reason(error)
    found = re.search(r"os_error_code='?(\d+)", str(error))  # as tensorstore puts it
    numbers = [int(found[1])] if found else [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES]
    return next((os.strerror(number) for number in numbers if found or os.strerror(number) in str(error)), None)


@contextlib.contextmanager
def quiet_absl(errors: bool = False):
    """Keeps the notes and warnings of absl, by which TFDS and orbax log, from the terminal; errors too, if asked."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL if errors else logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
