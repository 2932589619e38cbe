"""Options that several commands share, and the values that they stand for: processes, registries, instances."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from fpgan.cli.terminal import not_negative, positive
from fpgan.errors import FpganError, printable
from fpgan.model import DEFAULT_MODEL

if TYPE_CHECKING:
    from fpgan.attribution.registry import Registry
    from fpgan.distributed.environment import Process


def add_model_argument(parser: argparse._ActionsContainer, help: str = "a model's name or folder") -> None:
    """Declares --model."""
    parser.add_argument("--model", metavar="NAME", default=DEFAULT_MODEL, help=f"{help} (default {DEFAULT_MODEL})")


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares --process-id and --num-processes."""
    several = parser.add_argument_group("several processes, each with the same command")
    several.add_argument("--process-id", metavar="I", type=not_negative,
                         help="which one this is, from 0 (default: FPGAN_PROCESS_ID, or what the scheduler says)")
    several.add_argument("--num-processes", metavar="N", type=positive,
                         help="how many there are (default: FPGAN_NUM_PROCESSES, or what the scheduler says)")


def process_of(args: argparse.Namespace) -> Process:
    """Finds out which process this is, see `detect_process`."""
    from fpgan.distributed.environment import detect_process

    return detect_process(args.process_id, args.num_processes)


def add_instance_arguments(parser: argparse._ActionsContainer, *, new: bool) -> None:
    """Declares by what instances are named; see `registry_of`.

    Args:
      parser: or a group of it.
      new: whether they may also be new: --fingerprint and --issue.
    """
    parser.add_argument("--registry", metavar="FILE", help="the registry: CSV (user,fingerprint) or SQLite (fpgan registry)")
    parser.add_argument("--key-file", metavar="FILE",
                        help="a provider's secret key (hexadecimal digits or raw bytes) instead")
    parser.add_argument("--user", metavar="ID", action="append", default=[],
                        help="a user id: this one alone; may be repeated")
    parser.add_argument("--users", metavar="FILE", help="more of them, one per line; or a file that is the registry")
    if not new:
        parser.set_defaults(fingerprint=None, issue=False, allow_revoked=True)
        return
    parser.add_argument("--fingerprint", metavar="HEX", help="a fingerprint in hexadecimal digits, instead of all else")
    parser.add_argument("--issue", action="store_true",
                        help="give users who are not in the registry a random fingerprint, and add them to it")
    add_revoked_argument(parser)


def add_revoked_argument(parser: argparse._ActionsContainer) -> None:
    """Declares --allow-revoked; see `refuse_revoked`."""
    parser.add_argument("--allow-revoked", action="store_true", help="also for users whom the registry has as revoked")


def refuse_revoked(registry: Registry) -> None:
    """Raises FpganError if a registry holds users who may no longer use their instances."""
    if registry.revoked:
        user, time = next(iter(registry.revoked.items()))
        more = f", and {len(registry.revoked) - 1} more of those asked for" if len(registry.revoked) > 1 else ""
        raise FpganError(f"the user {user!r} was revoked at {time}{more}; leave revoked users out, or give --allow-revoked")


def registry_of(args: argparse.Namespace, n_bits: int) -> Registry:
    """Finds the model instances that somebody asks for by name, by key or by fingerprint.

    Args:
      args: the options of `add_instance_arguments`.
      n_bits: length of the fingerprints, that of the model.

    Returns:
      The users who are named, or all of the registry; of a bare fingerprint the user is None.

    Raises:
      FpganError: the options do not go together, or name somebody who is not there.
    """
    from fpgan.attribution.csv_store import read_users
    from fpgan.attribution.registry import Registry
    from fpgan.attribution.stores import is_registry, open_store
    from fpgan.fingerprint import Fingerprint

    users, path = list(args.user), args.registry
    if args.users is not None and is_registry(args.users):
        if path is not None or args.key_file is not None:
            raise FpganError(f"{os.fspath(args.users)} holds fingerprints; leave out --registry and --key-file, or give a "
                             "file of user ids, one per line")
        path = args.users
    elif args.users is not None:
        users += read_users(args.users)
    _refuse_contradictions(args, path, users)
    if args.fingerprint is not None:
        return Registry.single(Fingerprint.from_hex(args.fingerprint, n_bits))
    store = open_store(path, args.key_file, n_bits, lambda line: print(f"fpgan: {printable(line)}", file=sys.stderr))
    found = store.issue(users) if args.issue else store.select(users) if users else store.registry()
    if not len(found):
        raise FpganError(f"{path} has no users yet; issue fingerprints first (fpgan generate --issue)")
    if not args.allow_revoked:
        refuse_revoked(found)
    return found


def _refuse_contradictions(args: argparse.Namespace, path: str | None, users: list[str]) -> None:
    """Raises FpganError for options that do not go together, or too few of them."""
    if args.issue and (args.fingerprint is not None or args.key_file is not None):
        raise FpganError("--issue draws random fingerprints and goes with --registry alone; leave out --issue, or "
                         f"leave out {'--fingerprint' if args.key_file is None else '--key-file'}")
    if args.fingerprint is not None:
        if users or path is not None or args.key_file is not None:
            raise FpganError("expected either a fingerprint or users, not both")
        return
    if args.issue and (path is None or not users):
        raise FpganError("to issue fingerprints, name the users (--user, --users) and their --registry")
    if (path is None) == (args.key_file is None):
        raise FpganError("expected either a registry (--registry) or a provider's key (--key-file)")
    if args.key_file is not None and not users:
        raise FpganError("with a provider's key the users have to be named; give --users FILE or --user ID")
