"""`fpgan verify-certificate`: checks a signed verdict, and computes it again."""

from __future__ import annotations

import argparse
import sys

from fpgan.cli.options import add_model_argument

EXAMPLE = """\
example: all of it, by somebody who has the image, the model and a copy of the registry

  fpgan verify-certificate verdict.json found/a.png --registry copy.sqlite --provider-key 5f0c...

checks the signatures, that the user's fingerprint is in the log of the signed head, the weights
of the bits, score, matches and p-value; from the image and the model, what the decoder reads; from
the registry, that its log is the one that was signed, and that nobody else fits. What cannot be
checked for lack of an image or of --registry is said.

exit code: 0 if all that was checked holds; 1 if something does not; 2 for a wrong command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan verify-certificate`."""
    parser.add_argument("certificate", metavar="CERTIFICATE", help="what fpgan attribute --certificate wrote")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="the images that it is about, under any names")
    add_model_argument(parser, "the decoder's model, a name or a folder")
    parser.add_argument("--registry", metavar="FILE", help="the registry in SQLite, or a verifier's copy")
    parser.add_argument("--provider-key", metavar="HEX", help="the public key that has to have signed the registry's head")
    parser.add_argument("--certifier-key", metavar="HEX", help="the public key that has to have signed the certificate")


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan verify-certificate`; returns the exit code that its help states."""
    from fpgan.attribution import certificate
    from fpgan.attribution.stores import open_database
    from fpgan.errors import FpganError, printable
    from fpgan.io.inputs import read_json

    document = read_json(args.certificate, "; expected what fpgan attribute --certificate wrote")
    database = open_database(args.registry) if args.registry else None
    failed = 0
    steps = [lambda: certificate.check(document, args.certifier_key, args.provider_key)]
    steps += [lambda: _read_again(document, args.images, args.model)] if args.images else []
    steps += [lambda: certificate.check_search(document, database)] if database is not None else []
    for step in steps:
        try:
            print("\n".join(f"holds: {printable(line)}" for line in step()))
        except FpganError as error:
            failed += 1
            print(f"DOES NOT HOLD: {printable(str(error))}")
            if step is steps[0]:  # the rest is about a document that nobody signed
                break
    for given, what in ((args.images, "what the images show (give them)"), (args.registry, "who else fits (--registry)"),
                        (args.provider_key, "whose registry it is (--provider-key)")):
        if not given:
            print(f"not checked: {what}")
    print("the certificate does not hold" if failed else "the certificate holds, as far as it was checked", file=sys.stderr)
    return int(failed > 0)


def _read_again(document: dict, paths: list[str], model_name: str) -> list[str]:
    """Decodes the images again, and compares."""
    import hashlib

    import fpgan
    from fpgan.attribution import certificate
    from fpgan.cli.attribute import model_facts
    from fpgan.errors import FpganError
    from fpgan.io.images import read_image
    from fpgan.io.inputs import read_bytes
    from fpgan.io.listing import MAX_MEMBER

    model, lines = fpgan.load(model_name), []
    known = {image["sha256"]: image for image in document["images"]}
    for path in paths:
        content = read_bytes(path, MAX_MEMBER)
        image = known.get(hashlib.sha256(content).hexdigest())
        if image is None:
            raise FpganError(f"{path}: the certificate is not about this file: its hash is another")
        pixels, _ = read_image(content, model.resolution)
        lines.append(certificate.check_reading(document, image, model.decode(pixels[None])[0], model_facts(model),
                                               hashlib.sha256(pixels.tobytes()).hexdigest()))
    return lines
