"""`fpgan attribute`: who made these images, with a false-positive rate."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from fpgan.cli.options import add_instance_arguments, registry_of
from fpgan.cli.reading import add_reading_arguments, read_images
from fpgan.errors import FpganError

if TYPE_CHECKING:
    from fpgan.model.model import Model

EXAMPLE = """\
example: whose images are these?

  fpgan attribute found/ --registry registry.csv --out verdicts.csv

prints a table, and writes the same with the bits read, the decoder's confidence and its
evenness to verdicts.csv:

  file                    matches   log10 p  verdict
  found/a.png          128 of 128     -38.1  user alice
  found/b.png          125 of 128     -33.2  user bob (flipped, cropped to 92%)
  found/c.png           76 of 128      -0.6  no fingerprint found

log10 p bounds the probability that an image which no registered user's instance made would
fit any of them so well: the exact tail of a score in which sure bits count for more, times
the number of users. An image is attributed when that is at most --fpr, to everybody who fits
so well: an image that several users have mixed may name several. Verdicts below that are told
apart by how even the logits are in size, where the model has a calibrated threshold; those
have no p-value. What a p-value says, and what not (who holds a user's images may imitate their
fingerprint): docs/statistics.md.

An image that was moved (flipped, cropped, turned, put on a page) is read where the picture lies
in it: --search fast, the default of models with an aligner, looks where the aligner finds it,
--search full also tries hundreds of poses. The image alone decides, never the registry, so p
needs no factor; the verdict says what was undone.

Several images of one suspect, each too damaged for itself, are one verdict with one p-value:

  fpgan attribute seized/ --registry registry.csv --pool folder     (a folder is a suspect)
  fpgan attribute seized/ --registry registry.csv --pool list.csv   (with columns file,suspect)

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
    add_instance_arguments(parser, new=False)
    parser.add_argument("--fpr", "--false-positive-rate", metavar="RATE", type=float, default=1e-6,
                        help="tolerated rate of false attributions per image, over all users (default 1e-6)")
    parser.add_argument("--pool", metavar="BY",
                        help="one verdict for all images of a suspect: 'folder' (each folder or array_record file is one), "
                             "'all', or a CSV file with the columns file,suspect")
    parser.add_argument("--out", metavar="FILE_OR_DIR",
                        help="also write CSV, JSON lines or Parquet, by ending or --format; into a folder (one that "
                             "exists, or a name without an ending) go parts, instead of the table")
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"),
                        help="format of --out; without --out, print CSV or JSON lines instead of the table")
    parser.add_argument("--certificate", metavar="JSON",
                        help="also write a signed certificate; the registry is SQLite then")
    parser.add_argument("--signing-key", metavar="FILE", help="the private key (PEM) that signs the certificate")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan attribute`; returns the exit code that its help states."""
    import fpgan
    from fpgan.decoding.decode import DecodeJob

    if args.certificate:
        _check_certificate_arguments(args)
    model = fpgan.load(args.model)
    if args.certificate:
        return _certify(args, model)
    job = DecodeJob(model, registry_of(args, model.n_bits), args.fpr, args.batch_size, args.threads, args.pool, args.search)
    return read_images("attribute", job, args)


def model_facts(model: Model) -> dict:
    """Returns what a certificate says about the model."""
    return {"name": model.name, "hash": model.hash, "n_bits": model.n_bits, "resolution": model.resolution}


def search_facts(model: Model, search: str) -> dict | None:
    """Returns what a certificate says about a search, None of "none"."""
    return None if search == "none" else {"search": search, "aligner": (model.info.get("aligner") or {}).get("hash")}


def _check_certificate_arguments(args: argparse.Namespace) -> None:
    from fpgan.attribution.sqlite_tables import is_sqlite
    from fpgan.decoding.shards import is_folder

    if not args.registry or not is_sqlite(args.registry) or args.user or args.users or args.key_file:
        raise FpganError("a certificate is about all users of a registry in SQLite; give --registry one (fpgan registry "
                         "init), and leave out --user, --users and --key-file")
    if not args.signing_key:
        raise FpganError("a certificate is signed; give --signing-key FILE (fpgan registry init --signing-key makes one)")
    if args.pool or is_folder(args.out):
        raise FpganError("a certificate is about one image or several, each for itself; leave out --pool, and name a file "
                         "after --out, no folder")


def _certify(args: argparse.Namespace, model: Model) -> int:
    """Attributes images to the users of a signed head, and writes the certificate."""
    from fpgan.attribution import certificate, proofs
    from fpgan.attribution.places import alignment_entry
    from fpgan.attribution.stores import open_database
    from fpgan.decoding.decode import DecodeJob
    from fpgan.io.files import write_file
    from fpgan.io.ledger import public_key, read_signing_key
    from fpgan.io.provenance import provenance
    from fpgan.model.reading import poses_tried, search_of

    search = search_of(model, args.search)
    key, images, tried = read_signing_key(args.signing_key), [], poses_tried(model, search)
    with open_database(args.registry, model.n_bits) as database:
        own = database.public_key == public_key(key) and database.role == "provider"
        head = proofs.sign_head(database, key) if own else proofs.newest_head(database)
        job = DecodeJob(model, database.registry(head["users"]), args.fpr, args.batch_size, args.threads,
                        search=search, hashed=True)

        def keep(row) -> None:
            if row.logits is not None:
                alignment = alignment_entry(row.pose, tried)
                images.append(certificate.image_entry(os.path.abspath(row.file), row.sha256, row.pixels_sha256, row.resized,
                                                      row.logits, row.verdict, alignment))

        code = read_images("attribute", job, args, [keep])
        if images:  # paths from where all of them lie: no more of the analyst's machine, and no name twice
            folder = os.path.commonpath([os.path.dirname(image["file"]) for image in images])
            images = [image | {"file": os.path.relpath(image["file"], folder)} for image in images]
        facts = provenance("fpgan attribute", ("cryptography",))
        document = certificate.certify(images, model=model_facts(model), database=database, head=head,
                                       false_positive_rate=args.fpr, evenness_threshold=job.evenness_threshold,
                                       versions={"fpgan": facts["fpgan"], **facts["versions"]}, key=key,
                                       search=search_facts(model, search))
    content = (json.dumps(document, indent=1) + "\n").encode("ascii")
    write_file(args.certificate, content, sync=True, private=True)
    print(f"{args.certificate}: certificate of {len(images)} images, signed with {document['public_key']}", file=sys.stderr)
    return code
