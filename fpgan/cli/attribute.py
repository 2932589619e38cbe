"""`fpgan attribute`: who made these images, with a false-positive rate."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterable

from fpgan.cli.decode import add_reading_arguments, decode_into_folder
from fpgan.cli.options import share_of
from fpgan.cli.terminal import finish, print_verdicts, verdict_table, warner
from fpgan.errors import FpganError

EXAMPLE = """\
example: whose images are these?

  fpgan attribute found/ --registry registry.csv --out verdicts.csv

prints a table, and writes the same with the bits read, the decoder's confidence and its
evenness to verdicts.csv:

  file                    matches   log10 p  verdict
  found/a.png          128 of 128     -37.1  user alice
  found/b.png           76 of 128       0.0  not ours

log10 p bounds the probability that an image which no registered user's instance made would
match any of them so well: the exact binomial tail times the number of users. An image is
attributed when that is at most --fpr. Verdicts below that are told apart by how even the
logits are in size, where the model has a calibrated threshold; those have no p-value.

Very many images go into a folder of parts, by any number of processes, as fpgan decode --help
shows; then counts are printed instead of the table.

A certificate, signed, for whoever has to be convinced (fpgan verify-certificate checks it):

  fpgan attribute found/a.png --registry registry.sqlite --certificate a.json \\
      --signing-key provider.pem

Instead of a registry, a provider's key and the ids to try: --key-file key.hex --users users.txt

exit code: 0, whatever the verdicts; 1 if no image could be read, or with --strict if any could
not; 2 for a wrong command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan attribute`."""
    parser.add_argument("images", metavar="IMAGES", nargs="+",
                        help="files, folders, patterns or array_record files")
    parser.add_argument("--registry", metavar="FILE",
                        help="the registry: CSV (user,fingerprint) or SQLite (fpgan registry init)")
    parser.add_argument("--key-file", metavar="FILE",
                        help="a provider's secret key (hexadecimal digits or raw bytes) instead")
    parser.add_argument("--user", metavar="ID", action="append", default=[],
                        help="compare with this user only; may be repeated")
    parser.add_argument("--users", metavar="FILE", help="compare with these users only: ids, one per line")
    parser.add_argument("--fpr", "--false-positive-rate", metavar="RATE", type=float, default=1e-6,
                        help="tolerated rate of false attributions per image, over all users (default 1e-6)")
    parser.add_argument("--out", metavar="FILE_OR_DIR",
                        help="also write CSV, JSON lines or Parquet, by ending or --format; into a folder (one that "
                             "exists, or a name without an ending) go parts, instead of the table")
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"),
                        help="format of --out; without --out, print CSV or JSON lines instead of the table")
    parser.add_argument("--certificate", metavar="JSON", help="also write a signed certificate; the registry is SQLite then")
    parser.add_argument("--signing-key", metavar="FILE", help="the private key (PEM) that signs the certificate")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan attribute`; returns the exit code that its help states."""
    import fpgan
    from fpgan.attribution.csv_store import read_users
    from fpgan.attribution.verdict import explain
    from fpgan.cli.options import open_registry
    from fpgan.decoding.decode import attribute_rows, decode_files
    from fpgan.decoding.shards import Question, is_folder

    if args.certificate:
        _check_certificate_arguments(args)
    model = fpgan.load(args.model)
    if args.certificate:
        return _certify(args, model)
    named = args.user + (read_users(args.users) if args.users else [])
    registry = open_registry(model.n_bits, args.registry, args.key_file, named)
    sure = model.info.get("evenness_threshold")
    meaning = explain(registry, args.fpr, sure)
    if is_folder(args.out):
        counts = decode_into_folder("attribute", Question(model, registry, args.fpr, sure), args)
        print_verdicts(counts, meaning, sys.stdout)
        return finish("attribute", counts, args.strict)
    share_of(args).refuse_several("a folder: give --out one")
    rows = decode_files(model, args.images, batch_size=args.batch_size, workers=args.threads)
    return _tell(args, attribute_rows(rows, registry, args.fpr, sure), meaning)


def _tell(args: argparse.Namespace, rows: Iterable, meaning: str, *more_sinks: Callable) -> int:
    """Writes rows as the options ask; returns the exit code."""
    from fpgan.decoding.rows import row_file, write_rows

    sinks = [warner("attribute"), *more_sinks]
    with contextlib.ExitStack() as stack:
        if args.out or args.format:
            sinks.append(stack.enter_context(row_file(args.out, args.format, with_verdict=True)))
        if args.out or not args.format:
            sinks.append(verdict_table(sys.stdout))
        counts = write_rows(rows, *sinks)
    print_verdicts(counts, meaning, sys.stdout if args.out or not args.format else sys.stderr)
    return finish("attribute", counts, args.strict)


def model_facts(model) -> dict:
    """Returns what a certificate says about the model."""
    return {"name": model.name, "hash": model.hash, "n_bits": model.n_bits, "resolution": model.resolution}


def _check_certificate_arguments(args: argparse.Namespace) -> None:
    from fpgan.attribution.sqlite_tables import is_sqlite

    if not args.registry or not is_sqlite(args.registry) or args.user or args.users or args.key_file:
        raise FpganError("a certificate is about all users of a registry in SQLite; give --registry one (fpgan registry "
                         "init), and leave out --user, --users and --key-file")
    if not args.signing_key:
        raise FpganError("a certificate is signed; give --signing-key FILE (fpgan registry init --signing-key makes one)")


def _certify(args: argparse.Namespace, model) -> int:
    """Attributes images against the users of a signed head, and writes the certificate."""
    from fpgan.attribution import certificate, proofs
    from fpgan.attribution.verdict import explain
    from fpgan.cli.options import open_database
    from fpgan.decoding.decode import attribute_rows, decode_files
    from fpgan.io.files import write_file
    from fpgan.io.ledger import public_key, read_signing_key
    from fpgan.io.provenance import provenance

    key, sure = read_signing_key(args.signing_key), model.info.get("evenness_threshold")
    with open_database(args.registry, model.n_bits) as database:
        own = database.public_key == public_key(key) and database.role == "provider"
        head = proofs.sign_head(database, key) if own else proofs.newest_head(database)
        registry, images = database.registry(head["users"]), []
        rows = decode_files(model, args.images, batch_size=args.batch_size, workers=args.threads)
        code = _tell(args, attribute_rows(rows, registry, args.fpr, sure), explain(registry, args.fpr, sure),
                     lambda row: images.append(_image_entry(row, model)) if row.logits is not None else None)
        facts = provenance("fpgan attribute", ("cryptography",))
        document = certificate.certify(images, model=model_facts(model), database=database, head=head,
                                       false_positive_rate=args.fpr, evenness_threshold=sure,
                                       versions={"fpgan": facts["fpgan"], **facts["versions"]}, key=key)
    write_file(args.certificate, (json.dumps(document, indent=1) + "\n").encode("ascii"), sync=True)
    print(f"{args.certificate}: certificate of {len(images)} images, signed with {document['public_key']}", file=sys.stderr)
    return code


def _image_entry(row, model) -> dict:
    """Returns what a certificate says about the image of a row."""
    import hashlib
    from pathlib import Path

    from fpgan.attribution.certificate import image_entry
    from fpgan.io.images import read_image

    try:
        content = Path(row.file).read_bytes()
    except OSError as error:
        raise FpganError(f"{row.file}: a certificate is about image files, one each, not about records") from error
    pixels, resized = read_image(content, model.resolution)
    hashes = [hashlib.sha256(data).hexdigest() for data in (content, pixels.tobytes())]
    return image_entry(Path(row.file).name, *hashes, resized, row.logits, row.verdict)
