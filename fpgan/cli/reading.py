"""From images to verdicts on the command line: what `fpgan decode` and `fpgan attribute` share, which is all but the job."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from fpgan.cli.options import add_model_argument, add_process_arguments, process_of
from fpgan.cli.terminal import (
    closing_line,
    finish,
    positive,
    print_verdicts,
    row_counter,
    tell_passed_over,
    verdict_table,
    warner,
)

if TYPE_CHECKING:
    from fpgan.decoding.decode import DecodeJob
    from fpgan.decoding.rows import Row


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of reading images."""
    parser.add_argument("images", metavar="IMAGES", nargs="+", help="files, folders, patterns or array_record files")
    add_model_argument(parser)
    parser.add_argument("--batch-size", metavar="N", type=positive, default=64,
                        help="images decoded at once on each device (default 64)")
    parser.add_argument("--threads", metavar="N", type=positive, default=8,
                        help="threads that read files (default 8)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if any image could not be read")
    parser.add_argument("--shard-size", metavar="N", type=positive, default=16384,
                        help="images per part in a folder, the piece of work of a process (default 16384)")
    add_process_arguments(parser)


def read_images(command: str, job: DecodeJob, args: argparse.Namespace,
                more_sinks: Sequence[Callable[[Row], None]] = ()) -> int:
    """Reads images into what the options name: a table, a file, or a folder of parts.

    Args:
      command: the one that does it, for messages.
      job: what is asked about each image.
      args: the options of `add_reading_arguments`, --out and --format.
      more_sinks: what else rows are passed to.

    Returns:
      The exit code, see `fpgan.cli.terminal.finish`.
    """
    from fpgan.decoding.shards import decode_folder, is_folder
    from fpgan.io.listing import image_sources

    meaning, process, others = job.meaning(), process_of(args), Counter()

    def passed_over(path: str) -> None:
        others[os.path.splitext(path)[1].lower()] += 1

    if is_folder(args.out):
        outcome, counts = decode_folder(
            job, args.images, args.out, format=args.format or "jsonl", shard_size=args.shard_size, process=process,
            sinks=[warner(command), row_counter(command), *more_sinks],
            report=lambda line: print(f"fpgan {command}: {process}: {line}", file=sys.stderr), passed_over=passed_over)
        print(closing_line(outcome, process, "decoded", "parts", f"all parts are there: {args.out}"))
    else:
        process.refuse_several("a folder: give --out one")
        with _sinks(command, job, args) as sinks:
            counts = job.run(image_sources(args.images, passed_over), [*sinks, *more_sinks])
    tell_passed_over(command, others)
    if meaning is not None:
        print_verdicts(counts, meaning, sys.stdout if args.out or not args.format else sys.stderr)
    return finish(command, counts, args.strict)


@contextlib.contextmanager
def _sinks(command: str, job: DecodeJob, args: argparse.Namespace) -> Iterator[list[Callable[[Row], None]]]:
    """Opens what rows are passed to: warnings, a file or standard output, and the table where there are verdicts to show."""
    from fpgan.decoding.rows import row_file

    sinks, shown = [warner(command)], job.registry is not None and (args.out or not args.format)
    with contextlib.ExitStack() as stack:
        if args.out or not shown:
            sinks.append(stack.enter_context(row_file(args.out, args.format, job.registry is not None)))
        sinks.append(verdict_table(sys.stdout) if shown else row_counter(command))
        yield sinks
