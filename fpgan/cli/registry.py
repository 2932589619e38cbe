"""`fpgan registry ...`: a registry of millions of users in one SQLite file, whose log others can check."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from fpgan.cli.terminal import positive
from fpgan.errors import FpganError, printable

EXAMPLE = """\
example: a registry with a signing key, a user, and what a third party can check

  fpgan registry init registry.sqlite --signing-key provider.pem
  fpgan registry issue registry.sqlite --user alice --signing-key provider.pem
  fpgan registry prove registry.sqlite --user alice --out alice-proof.json
  fpgan registry check alice-proof.json --public-key 5f0c...        (needs no registry)

Later: fpgan registry revoke registry.sqlite --user alice; images of alice's instance are still
attributed to her, as revoked. fpgan registry verify registry.sqlite --head head.json recomputes
the whole log, and says if anything was changed since head.json was handed out.

Every issue, revocation and release is a leaf of a Merkle tree (RFC 9162); a head is its signed
root (Ed25519). Publish heads: they show later what was registered by then.

fpgan generate, attribute and release take the file as --registry, like a CSV registry.

exit code: 0; 1 if verify finds something; 2 for a wrong command, or a document that does not hold.
"""
_AT_ONCE = 1 << 18  # users issued in one transaction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the commands of `fpgan registry` and their options."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str, file: str = "registry") -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        parser.add_argument(file, metavar=file.upper(), help="the registry's file" if file == "registry" else "a JSON file")
        return parser

    def sign(parser: argparse.ArgumentParser, what: str, required: bool = False) -> None:
        parser.add_argument("--signing-key", metavar="FILE", required=required, help=what)

    make = command("init", "make an empty registry")
    make.add_argument("--bits", metavar="N", type=positive, default=128, help="length of the fingerprints (default 128)")
    sign(make, "the provider's private key (PEM); made if it is not there")
    issue = command("issue", "issue fingerprints to users")
    issue.add_argument("--user", metavar="ID", action="append", default=[], help="a user id; may be repeated")
    issue.add_argument("--users", metavar="FILE", help="a file of user ids, one per line")
    issue.add_argument("--count", metavar="N", type=positive, help="or so many users with numbers as ids, see --prefix")
    issue.add_argument("--prefix", metavar="TEXT", default="user-", help="what the ids of --count begin with")
    issue.add_argument("--key-file", metavar="FILE", help="derive the fingerprints from this secret; else they are random")
    issue.add_argument("--skip-known", action="store_true", help="pass over users who are there, instead of refusing them")
    sign(issue, "sign a head afterwards")
    revoke = command("revoke", "revoke users: their images are attributed with that remark")
    revoke.add_argument("--user", metavar="ID", action="append", required=True, help="a user id; may be repeated")
    revoke.add_argument("--why", metavar="TEXT", default="", help="goes into the log")
    sign(revoke, "sign a head afterwards")
    show = command("list", "list users, as CSV")
    show.add_argument("--releases", action="store_true", help="the instances that were handed out instead, as JSON lines")
    show.add_argument("--fingerprints", action="store_true", help="with the fingerprints, which are secret")
    take = command("import", "add the users of a CSV registry, with their fingerprints")
    take.add_argument("--csv", metavar="FILE", required=True, help="user,fingerprint")
    sign(take, "sign a head afterwards")
    give = command("export", "write a copy: CSV (user,fingerprint), or SQLite, read only, for a verifier")
    give.add_argument("--out", metavar="FILE", required=True, help="ends in .csv, or is a copy for a verifier")
    check = command("verify", "recompute the log, and find every change")
    check.add_argument("--head", metavar="FILE", action="append", default=[],
                       help="a head that was handed out; may be repeated")
    sign(command("head", "sign the log as it is now, and print the head"), "the provider's private key", required=True)
    prove = command("prove", "write a proof that others can check")
    prove.add_argument("--user", metavar="ID", help="that this user was registered, by the last signed head")
    prove.add_argument("--since", metavar="FILE", help="or that nothing was changed since this head")
    prove.add_argument("--out", metavar="FILE", help="default: standard output")
    check = command("check", "check a proof or a head, without the registry", "document")
    check.add_argument("--public-key", metavar="HEX", help="the provider's, from where you trust it")


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan registry`; returns the exit code that its help states."""
    return {"init": _init, "issue": _issue, "revoke": _revoke, "list": _list, "import": _import, "export": _export,
            "verify": _verify, "head": _head, "prove": _prove, "check": _check}[args.command](args)


def _init(args: argparse.Namespace) -> int:
    from fpgan.attribution.database import create
    from fpgan.io.ledger import create_signing_key, public_key

    public = public_key(create_signing_key(args.signing_key)) if args.signing_key else None
    create(args.registry, args.bits, public).close()
    print(f"{args.registry}: a registry for fingerprints of {args.bits} bits; " +
          (f"its heads are signed with {args.signing_key}\npublic key {public}" if public else
           "its heads cannot be signed (--signing-key)"))
    return 0


def _issue(args: argparse.Namespace) -> int:
    from fpgan.attribution.csv_store import read_users
    from fpgan.attribution.key_store import read_key

    if bool(args.user or args.users) == (args.count is not None):
        raise FpganError("expected either users (--user, --users) or --count N")
    key = read_key(args.key_file) if args.key_file else None
    with _changing(args) as database:
        count = 0
        for users in _parts(args, len(database), read_users):
            count += database.issue(users, key, skip_known=args.skip_known)
        print(f"{args.registry}: {count} users issued, {len(database)} in all")
    return 0


def _parts(args: argparse.Namespace, first: int, read_users) -> Iterator[list[str]]:
    """Yields the users to be issued, in parts of one transaction each; those that are named one by one are one part."""
    if args.count is None:
        users = args.user + (read_users(args.users) if args.users else [])
        if len(set(users)) < len(users):
            raise FpganError("a user is given twice; user ids have to be distinct")
    else:
        users = (f"{args.prefix}{i}" for i in range(first, first + args.count))
    users = iter(users)
    while part := list(itertools.islice(users, _AT_ONCE)):
        yield part


def _revoke(args: argparse.Namespace) -> int:
    with _changing(args) as database:
        for user in args.user:
            database.revoke(user, args.why)
            print(f"{args.registry}: {printable(user)} is revoked")
    return 0


@contextlib.contextmanager
def _changing(args: argparse.Namespace) -> Iterator:
    """Opens the registry for a change, and signs a head afterwards if that is asked for; the key is checked before."""
    from fpgan.attribution.proofs import check_key, sign_head
    from fpgan.attribution.stores import open_database
    from fpgan.io.ledger import read_signing_key

    with open_database(args.registry) as database:
        key = read_signing_key(args.signing_key) if args.signing_key else None
        if key is not None:
            check_key(database, key)
        yield database
        if key is not None:
            head = sign_head(database, key)
            print(f"head of {head['size']} entries signed: root {head['root']}")


def _list(args: argparse.Namespace) -> int:
    import csv

    from fpgan.attribution.stores import open_database

    with open_database(args.registry) as database:
        if args.releases:
            for release in database.releases():
                print(json.dumps(release))
            return 0
        names = ["user", "issued", "revoked"] + ["fingerprint"] * args.fingerprints
        writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(database.rows())
    return 0


def _import(args: argparse.Namespace) -> int:
    from fpgan.attribution.csv_store import read

    with _changing(args) as database:
        given = read(args.csv, database.n_bits)
        database.issue(given.users, fingerprints=given.packed)
        print(f"{args.registry}: {len(given)} users added, {len(database)} in all")
    return 0


def _export(args: argparse.Namespace) -> int:
    from fpgan.attribution.stores import open_database
    from fpgan.io.files import replacing

    with open_database(args.registry) as database:
        if not args.out.endswith(".csv"):
            if Path(args.out).exists():
                raise FpganError(f"{args.out} exists; give another name")
            database.copy(args.out)
            print(f"{args.out}: a copy for a verifier, read only: {len(database)} users")
            return 0
        with replacing(args.out, sync=True, private=True) as file:
            _write_csv(database, file)
        print(f"{args.out}: {len(database)} users")
    return 0


def _write_csv(database, file) -> None:
    import csv
    import io

    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.DictWriter(text, ["user", "fingerprint"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(database.rows())
    text.flush()
    text.detach()


def _verify(args: argparse.Namespace) -> int:
    from fpgan.attribution.proofs import audit
    from fpgan.attribution.stores import open_database
    from fpgan.io.inputs import read_json

    with open_database(args.registry) as database:
        problems = 0
        for problem in audit(database, [read_json(path) for path in args.head]):
            problems += 1
            print(f"{args.registry}: {printable(problem)}", file=sys.stderr)
        if problems:
            return 1
        heads = database.heads()
        signed = heads[-1]["size"] if heads else 0
        print(f"{args.registry}: {database.size} entries about {len(database)} users are as they were written; "
              f"{len(heads) + len(args.head)} heads hold, {database.size - signed} entries follow the last signed one")
    return 0


def _head(args: argparse.Namespace) -> int:
    from fpgan.attribution.proofs import sign_head
    from fpgan.attribution.stores import open_database
    from fpgan.io.ledger import read_signing_key

    with open_database(args.registry) as database:
        print(json.dumps(sign_head(database, read_signing_key(args.signing_key)), indent=2))
    return 0


def _prove(args: argparse.Namespace) -> int:
    from fpgan.attribution import proofs
    from fpgan.attribution.stores import open_database
    from fpgan.io.files import write_file
    from fpgan.io.inputs import read_json

    if (args.user is None) == (args.since is None):
        raise FpganError("expected either --user ID or --since HEAD.json")
    with open_database(args.registry) as database:
        proof = (proofs.prove(database, args.user) if args.user is not None else
                 proofs.prove_consistency(database, read_json(args.since)))
    text = json.dumps(proof, indent=2) + "\n"
    if args.out is None:
        print(text, end="")
        return 0
    write_file(args.out, text.encode("ascii"), private=True)
    print("\n".join([f"{args.out}:", *map(printable, proofs.check(proof, proof["head"]["public_key"]))]))
    return 0


def _check(args: argparse.Namespace) -> int:
    from fpgan.attribution.proofs import check
    from fpgan.io.inputs import read_json

    for line in check(read_json(args.document), args.public_key):
        print(f"holds: {printable(line)}")
    return 0
