"""What commands write for people: progress and warnings on standard error, the table of verdicts."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from fpgan.errors import printable

if TYPE_CHECKING:
    from collections import Counter
    from typing import TextIO

    from fpgan.decoding.rows import Counts
    from fpgan.distributed.environment import Process
    from fpgan.distributed.work import Outcome

_SHOWN = 5


def progress_line(command: str, unit: str = "images") -> Callable[[int, int | None], None]:
    """Returns progress(done, total or None), which rewrites a line on the terminal every now and then; it counts `unit`."""
    start = last = time.monotonic()

    def show(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if not sys.stderr.isatty() or (now - last < 0.2 and done != total):
            return
        last = now
        rate = done / max(now - start, 1e-3)
        left = f" of {total}, {(total - done) / max(rate, 1e-9):.0f} s left" if total else ""
        end = "\n" if done == total else ""
        print(f"\r\033[K{command}: {done} {unit}{left}, {rate:.1f}/s", end=end, file=sys.stderr, flush=True)

    return show


def row_counter(command: str, every: float = 5) -> Callable:
    """Returns a sink of rows that says every few seconds how many there have been."""
    start = last = time.monotonic()
    count = 0

    def tell(row) -> None:
        nonlocal count, last
        count += 1
        now = time.monotonic()
        if now - last >= every:
            last = now
            print(f"fpgan {command}: {count} images, {count / (now - start):.1f}/s", file=sys.stderr)

    return tell


def warner(command: str) -> Callable:
    """Returns a sink of rows that warns of unreadable and resized images, one by one at first."""
    warnings.filterwarnings("ignore", module="PIL")  # odd metadata is no concern here
    shown = {"error": 0, "resized": 0}

    def warn(row) -> None:
        kind = "error" if row.error else "resized" if row.resized else None
        if kind is None:
            return
        shown[kind] += 1
        if shown[kind] <= _SHOWN:
            what = row.error if row.file in (row.error or "") else f"{row.file}: {row.error}"
            what = what if row.error else f"{row.file}: {_resized(row)}, having another size (bits may suffer)"
            more = " (further ones are only counted)" if shown[kind] == _SHOWN else ""
            print(f"fpgan {command}: warning: {printable(what)}{more}", file=sys.stderr)

    return warn


def _resized(row) -> str:
    return f"{row.resized} of {row.images} images resized" if row.images > 1 else "resized"


def finish(command: str, counts: Counts, strict: bool) -> int:
    """Sums up on standard error what was not as usual, and returns the exit code.

    Returns:
      0; 1 when no image could be read, or with `strict` when any could not.
    """
    if counts.failed or counts.resized:
        print(f"fpgan {command}: {counts.read} images read, {counts.resized} of them resized; {counts.failed} "
              "could not be read", file=sys.stderr)
    return int(bool(counts.failed and (strict or not counts.read)))


def tell_passed_over(command: str, endings: Counter[str]) -> None:
    """Says on standard error in one line how many files were no images by their names (a Counter of endings)."""
    if endings:
        common = endings.most_common(5)
        most = ", ".join(f"{count} {printable(ending) or 'without an ending'}" for ending, count in common)
        print(f"fpgan {command}: {sum(endings.values())} other files were passed over ({most})", file=sys.stderr)


def closing_line(outcome: Outcome, process: Process, done: str, pieces: str, complete: str) -> str:
    """Says what a process did of work in shards.

    Args:
      outcome: a `fpgan.distributed.work.Outcome`.
      process: this one.
      done: what was done with the images, such as "made".
      pieces: what the shards are called.
      complete: what to say when nothing is missing.
    """
    share = f" ({process}, of {outcome.total} images)" if process.count > 1 else ""
    rest = f"{outcome.missing} {pieces} of other processes are not finished" if outcome.missing else complete
    return f"{outcome.made} images {done}, {outcome.present} were there{share}; {rest}"


def verdict_table(stream: TextIO, name_width: int = 40) -> Callable:
    """Returns a sink of rows that prints them in columns; long file names lose their head."""
    print(f"{'file':<{name_width}}  {'matches':>9}  {'log10 p':>8}  verdict", file=stream)

    def show(row) -> None:
        name = printable(row.file) + (f" ({row.images} images)" if row.images > 1 else "")
        name = name if len(name) <= name_width else "..." + name[3 - name_width:]
        if row.verdict is None:
            print(f"{name:<{name_width}}  {'':>9}  {'':>8}  not read", file=stream)
            return
        matches = f"{row.verdict.matches} of {len(row.logits)}"
        verdict = printable(str(row.verdict))
        print(f"{name:<{name_width}}  {matches:>9}  {row.verdict.log10_p:>8.1f}  {verdict}", file=stream)

    return show


def print_verdicts(counts: Counts, meaning: str, stream: TextIO) -> None:
    """Prints how often each verdict was given, and what the verdicts mean."""
    verdicts = "; ".join(f"{kind}: {count}" for kind, count in sorted(counts.verdicts.items()))
    print(f"\n{verdicts or 'no verdicts'}\n\n{meaning}", file=stream)


def positive(text: str) -> int:
    """Parses a whole number of at least 1, for argparse."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """Parses a whole number of at least 0, for argparse."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return int(text)
