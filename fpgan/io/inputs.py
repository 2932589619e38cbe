"""Reading what others hand in: regular files, no more than a stated size, text in any common encoding, JSON by a schema."""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from fpgan.errors import FpganError, reason, shown

MAX_JSON = 1 << 24  # bytes
MAX_LINES = 1 << 30  # bytes of a file of JSON lines
MAX_DEPTH = 32  # of lists and objects in each other
_KINDS = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
          (stat.S_ISDIR, "a folder"))
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # UTF-32 first: its mark begins as UTF-16's
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "an object", list: "a list"}


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a regular file for reading; links are followed.

    Raises:
      OSError: it cannot be opened, or is a FIFO, socket, device or folder: those are not opened, so nothing waits for them.
    """
    _refuse_special(path, os.stat(path).st_mode)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    try:
        _refuse_special(path, os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """Reads a regular file of at most `most` bytes; an OSError says what is wrong with any other."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read() if size <= most else b""
    if max(size, len(content)) > most:
        raise OSError(27, f"it is larger than the {most:,} bytes that are expected at most", os.fspath(path))
    return content


def read_text(path: str | os.PathLike, most: int) -> str:
    """Reads text of at most `most` bytes in any encoding that `decode_text` knows; line ends stay as they are.

    Raises:
      FpganError: the file cannot be read, or is no text; its name is in the message.
    """
    try:
        return decode_text(read_bytes(path, most))
    except (OSError, ValueError) as error:
        raise FpganError(f"{os.fspath(path)}: cannot be read ({reason(error)})") from error


def decode_text(content: bytes) -> str:
    """Decodes text: UTF-8, or UTF-16 or UTF-32 with a byte order mark, or ASCII as UTF-16 without one.

    Raises:
      ValueError: it is none of these.
    """
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content and len(content) % 2 == 0:  # UTF-16 without a mark
        encoding = "utf-16-le" if not any(content[1::2]) else "utf-16-be" if not any(content[::2]) else encoding
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no text in {encoding.upper()}; save the file as UTF-8") from error
    if "\0" in text:
        raise ValueError("it holds zero bytes, so it is no text; save the file as UTF-8")
    return text


class Budget:
    """An amount, such as bytes of memory, that all threads of the process share."""

    def __init__(self, total: int):
        self.total, self._held, self._changed = total, 0, threading.Condition()

    @contextlib.contextmanager
    def held(self, amount: int) -> Iterator[None]:
        """Holds some of it while the block runs; waits until so much is free. More than all there is waits to be alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + amount <= self.total)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()


@dataclass(frozen=True)
class Field:
    """What a field of a JSON object may hold.

    Attributes:
      kind: int, float (which takes whole numbers, too), str, bool, dict or list.
      low, high: the range of a number; of text, lists and objects that of their length.
      choices: the only values, if any are given.
      optional: whether it may be missing or null.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()
    optional: bool = False


def check_fields(found: Mapping, fields: Mapping[str, Field], where: str, hint: str = "", more: bool = False) -> None:
    """Checks a JSON object by its schema.

    Args:
      found: the object.
      fields: name -> what the field may hold.
      where: what the object is, for the message.
      hint: how to mend it, appended to the message.
      more: whether there may be other fields as well.

    Raises:
      FpganError: naming the field, what it is (cut to 200 characters), and what was expected.
    """
    unknown = next((name for name in found if name not in fields), None)
    if unknown is not None and not more:
        raise FpganError(f"{where} has the field {shown(unknown)!r}, which this fpgan does not know{hint}")
    for name, field in fields.items():
        value = found.get(name)
        if value is None and field.optional:
            continue
        if name not in found:
            raise FpganError(f"{where} has no field {name!r}{hint}")
        kinds = (int, float) if field.kind is float else (field.kind,)
        size = value if field.kind in (int, float, bool) else len(value) if isinstance(value, (str, list, dict)) else 0
        if type(value) not in kinds or not field.low <= size <= field.high or field.choices and value not in field.choices:
            raise FpganError(f"{where}: {name} is {shown(value)}; expected {_expected(field)}{hint}")


def read_json(path: str | os.PathLike, hint: str = "", most: int = MAX_JSON) -> dict:
    """Reads a file that holds one JSON object.

    Args:
      path: the file.
      hint: how to mend it if it cannot be read, appended to the message.
      most: bytes.

    Raises:
      FpganError: it cannot be read, or holds something else.
    """
    try:
        return parse_json(read_bytes(path, most))
    except (OSError, ValueError) as error:
        raise FpganError(f"{os.fspath(path)}: cannot be read ({shown(reason(error))}){hint}") from error


def read_json_lines(path: str | os.PathLike, check: Callable[[dict], object], told: str) -> list[dict]:
    """Reads the lines that a command has written on the way, so that it can go on; none if there is no such file.

    Args:
      path: the file, a JSON object on each line.
      check: looks at what a line has to hold; raises ValueError, KeyError or TypeError where it does not.
      told: what a line is said to be if it is something else, and how to mend that.

    Raises:
      FpganError: it cannot be read, or a line is something else.
    """
    if not os.path.exists(path):
        return []
    try:
        lines = read_bytes(path, MAX_LINES).decode().splitlines()
    except (OSError, ValueError) as error:
        raise FpganError(f"{os.fspath(path)}: cannot be read ({shown(reason(error))})") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse_json(line.encode()))
            check(found[-1])
        except (ValueError, KeyError, TypeError):
            raise FpganError(f"{os.fspath(path)}: line {number} is {told}") from None
    return found


def parse_json(content: bytes) -> dict:
    """Parses one JSON object that may come from anybody: no field twice, nothing nested deeper than MAX_DEPTH.

    Raises:
      ValueError: it is something else.
    """
    try:
        found = json.loads(content, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from error
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    level = [found]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)
                 if isinstance(inner, (dict, list))]
        if not level:
            return found
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _distinct(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {shown(next(name for name in names if names.count(name) > 1))!r} is there twice")
    return found


def _expected(field: Field) -> str:
    if field.choices:
        return f"one of {', '.join(map(str, field.choices))}"
    what = _NAMES[field.kind]
    limits = [f"{word} {limit:,}" for word, limit in (("from", field.low), ("to", field.high)) if math.isfinite(limit)]
    unit = "" if field.kind in (int, float, bool) or not limits else " characters" if field.kind is str else " entries"
    return " ".join([what, *limits]) + unit


def _refuse_special(path: str | os.PathLike, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise OSError(22, f"it is {kind}, where a file is expected", os.fspath(path))
