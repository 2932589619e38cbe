"""`fpgan verify-certificate`: checks a signed verdict, and computes it again."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from fpgan.cli.options import add_model_argument

if TYPE_CHECKING:
    import numpy as np

    from fpgan.model.model import Model

EXAMPLE = """\
example: all of it, by somebody who has the image, the model and a copy of the registry

  fpgan verify-certificate verdict.json found/a.png --registry copy.sqlite --provider-key 5f0c...

checks the signatures, that the user's fingerprint is in the log of the signed head, the weights
of the bits, score, matches and p-value; from the image and the model, where the search finds the
picture and what the decoder reads there; from the registry, that its log is the one that was
signed, and that nobody else fits. What cannot be checked for lack of an image or of --registry
is said.

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
    """Reads the images again, with the same search, and compares."""
    import hashlib

    import fpgan
    from fpgan.attribution import certificate
    from fpgan.cli.attribute import model_facts, search_facts
    from fpgan.errors import FpganError
    from fpgan.io.inputs import read_bytes
    from fpgan.io.listing import MAX_MEMBER

    model, lines, search = fpgan.load(model_name), [], document.get("search", {"search": "none"})["search"]
    about = model_facts(model) | {"search": search_facts(model, search),
                                  "evenness_threshold": model.evenness_threshold(search)}
    known = {image["sha256"]: image for image in document["images"]}
    for path in paths:
        content = read_bytes(path, MAX_MEMBER)
        image = known.get(hashlib.sha256(content).hexdigest())
        if image is None:
            raise FpganError(f"{path}: the certificate is not about this file: its hash is another")
        pixels, logits, alignment, undone = _read(model, content, search, image["alignment"]["pose"])
        line = certificate.check_reading(document, image, logits, about, hashlib.sha256(pixels.tobytes()).hexdigest(),
                                         alignment)
        lines.append(f"{line}; what was done to the picture, and undone: {undone}" if undone else line)
    return lines


def _read(model: Model, content: bytes, search: str, pose: list | None) -> tuple[np.ndarray, np.ndarray, dict, str]:
    """Looks for the picture in an image, and reads it.

    Args:
      model: the decoder's.
      content: of the image file.
      search: where to look.
      pose: where the certificate says that it lies: there it is read, if anything is found.

    Returns:
      The pixels uint8 [R, R, 3], the logits float32 [n], what the search finds as certificates say it, and in words.
    """
    import numpy as np

    from fpgan.attribution.places import alignment_entry
    from fpgan.io.images import read_whole
    from fpgan.model.reading import poses_tried, read_at

    pixels, whole = read_whole(content, model.resolution)
    reading = model.read(pixels[None], search, wholes=[whole])
    alignment, logits = alignment_entry(reading.alignment.poses[0], poses_tried(model, search)), reading.logits
    if pose is not None and alignment["pose"] is not None:
        logits = read_at(model, pixels[None], np.array(pose)[None], [whole])
    return pixels, logits[0], alignment, reading.alignment.undone[0]
