"""The options of verbs that share their work among processes: which process of how many this is."""

from __future__ import annotations

import argparse

from fpgan.verbs.terminal import not_negative, positive


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares --process-id and --num-processes."""
    several = parser.add_argument_group("several processes, each with the same command")
    several.add_argument("--process-id", metavar="I", type=not_negative,
                         help="which one this is, from 0 (default: FPGAN_PROCESS_ID, or what srun says)")
    several.add_argument("--num-processes", metavar="N", type=positive,
                         help="how many there are (default: FPGAN_NUM_PROCESSES, or what srun says)")


def share_of(args: argparse.Namespace):
    """Returns this process's share, a `fpgan.distributed.environment.Share`."""
    from fpgan.distributed.environment import process_share

    return process_share(args.process_id, args.num_processes)
