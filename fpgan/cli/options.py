"""Options that several commands share, and the values that they stand for: processes, registries, instances."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fpgan.cli.terminal import not_negative, positive
from fpgan.errors import FpganError

if TYPE_CHECKING:
    import numpy as np

    from fpgan.attribution.database import Database
    from fpgan.attribution.registry import Registry


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


def open_registry(n_bits: int, path: str | os.PathLike | None = None,
                  key_file: str | os.PathLike | None = None, users: Iterable[str] = ()) -> Registry:
    """Opens a registry file, or derives a registry from a key file: exactly one of the two.

    Args:
      n_bits: length of the fingerprints, that of the model.
      path: a registry file, CSV or SQLite; its first bytes say which.
      key_file: a provider's key, see `read_key`.
      users: the users to take; none means all of a registry file, and with a key they have to be named.
    """
    from fpgan.attribution.csv_store import read
    from fpgan.attribution.key_store import read_key
    from fpgan.attribution.registry import issue
    from fpgan.attribution.sqlite_tables import is_sqlite

    if (path is None) == (key_file is None):
        raise FpganError("expected either a registry (--registry) or a provider's key (--key-file)")
    users = tuple(users)
    if path is not None and is_sqlite(path):
        database = open_database(path, n_bits)  # stays open: names are looked up when they are asked for
        return database.select(users) if users else database.registry()
    if path is not None:
        whole = read(path, n_bits)
        return whole.select(users) if users else whole
    if not users:
        raise FpganError("with a provider's key the users have to be named; give --users FILE or --user ID")
    return issue(users, n_bits, read_key(key_file))


def open_database(path: str | os.PathLike, n_bits: int | None = None) -> Database:
    """Opens a registry in SQLite; FpganError if its fingerprints have another length than those of the model."""
    from fpgan.attribution.database import Database

    database = Database(path)
    if n_bits is not None and database.n_bits != n_bits:
        raise FpganError(f"{os.fspath(path)}: its fingerprints have {database.n_bits} bits, but the model reads {n_bits}; "
                         "was it made for another model?")
    return database


def instances(n_bits: int, *, fingerprint: str | None = None, users: Sequence[str] = (),
              users_file: str | os.PathLike | None = None, path: str | os.PathLike | None = None,
              key_file: str | os.PathLike | None = None,
              issue_new: bool = False) -> tuple[tuple[str | None, ...], np.ndarray]:
    """Finds the model instances that somebody asks for by name, by key or by fingerprint.

    Args:
      n_bits: length of the fingerprints, that of the model.
      fingerprint: hexadecimal digits of a single one, instead of all else.
      users: user ids; none means all of the registry.
      users_file: more of them, one per line; or, without `path` and `key_file`, the registry file.
      path: a registry file.
      key_file: a provider's key, instead of a registry file.
      issue_new: issue random fingerprints to users who are not in the registry file, and add them to it.

    Returns:
      U user ids (None for a bare fingerprint) and their fingerprints, uint8 [U, n_bits].

    Raises:
      FpganError: the arguments do not go together, or name somebody who is not there.
    """
    from fpgan.attribution.csv_store import is_registry, issue_missing, read_users
    from fpgan.attribution.sqlite_tables import is_sqlite
    from fpgan.fingerprint import as_bits

    if users_file is not None and (is_registry(users_file) or is_sqlite(users_file)):
        if path is not None or key_file is not None:
            raise FpganError(f"{os.fspath(users_file)} holds fingerprints; leave out --registry and --key-file, or give a "
                             "file of user ids, one per line")
        path = users_file
    elif users_file is not None:
        users = [*users, *read_users(users_file)]
    if issue_new and (fingerprint is not None or key_file is not None):
        raise FpganError("--issue draws random fingerprints and goes with --registry alone; leave out --issue, or "
                         f"leave out {'--fingerprint' if key_file is None else '--key-file'}")
    if fingerprint is not None:
        if users or path is not None or key_file is not None:
            raise FpganError("expected either a fingerprint or users, not both")
        return (None,), as_bits(fingerprint, n_bits)
    if issue_new and (path is None or not users):
        raise FpganError("to issue fingerprints, name the users (--user, --users) and their --registry")
    if issue_new and is_sqlite(path):
        open_database(path, n_bits).issue(users, skip_known=True)
    elif issue_new:
        issue_missing(path, users, n_bits)
    registry = open_registry(n_bits, path, key_file, users)
    return registry.users, registry.bits
