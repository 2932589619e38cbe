"""`fpgan release`: hands out a user's instance, as a directory that runs without fpgan."""

from __future__ import annotations

import argparse

from fpgan.cli.options import add_model_argument, add_revoked_argument, refuse_revoked
from fpgan.errors import FpganError, printable

EXAMPLE = """\
example: alice gets her instance

  fpgan registry init registry.sqlite
  fpgan registry issue registry.sqlite --user alice
  fpgan release --user alice --registry registry.sqlite --out for-alice

writes for-alice/ with the generator of alice's instance alone: safetensors, StableHLO (JAX on
CPU, GPU, TPU), ONNX, a script that runs either, a model card and terms. Her fingerprint is
folded into the weights; bits, mapping, decoder and other users are not in it.

  cd for-alice && pip install onnxruntime numpy pillow && python generate.py --seeds 0-15

The release goes into the registry's log, with the SHA-256 of every file (fpgan registry list
--releases); of a CSV registry, into registry.csv.releases.jsonl beside it.

exit code: 0; 2 for a wrong command, an unknown or a revoked user.
"""
_MAX_LICENCE = 1 << 20  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan release`."""
    parser.add_argument("--user", metavar="ID", required=True, help="whose instance")
    parser.add_argument("--registry", metavar="FILE", required=True, help="the registry, SQLite or CSV")
    parser.add_argument("--out", metavar="DIR", required=True, help="the directory to write, which must not exist")
    add_model_argument(parser)
    parser.add_argument("--label", metavar="K", type=int, help="the class, of a conditional model")
    parser.add_argument("--formats", metavar="LIST", default="stablehlo,onnx",
                        help="exports beside the safetensors: stablehlo, onnx, both with a comma (default), or none")
    parser.add_argument("--licence", "--license", metavar="FILE",
                        help="the terms that go into LICENSE (default: the user's own use, not to be passed on)")
    add_revoked_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan release`; returns 0."""
    import fpgan
    from fpgan.attribution.stores import open_store
    from fpgan.io.inputs import read_text
    from fpgan.model.instance import FORMATS, make_instance, write_instance

    formats = [] if args.formats == "none" else args.formats.split(",")
    if not set(formats) <= set(FORMATS):
        raise FpganError(f"--formats {args.formats}: expected {', '.join(FORMATS)}, several with commas, or none")
    licence = None if args.licence is None else read_text(args.licence, _MAX_LICENCE)
    model = fpgan.load(args.model)
    registry = open_store(args.registry, n_bits=model.n_bits).select([args.user])
    if not args.allow_revoked:
        refuse_revoked(registry)
    detail = {"model": model.hash, "name": model.name, "fpgan": fpgan.__version__}
    detail |= {} if args.label is None else {"label": args.label}
    hashes = write_instance(make_instance(model, registry.fingerprint(args.user), args.label), args.out, args.user, licence,
                            formats, lambda hashes: _record(args.registry, args.user, detail | {"sha256": hashes}))
    print(f"{args.out}: instance of {model.name} for {printable(args.user)}; {', '.join(hashes)}\n"
          f"generator.safetensors sha256 {hashes['generator.safetensors']}")
    return 0


def _record(registry: str, user: str, detail: dict) -> None:
    """Adds the release to the inventory."""
    import json
    import os
    import time

    from fpgan.attribution.proofs import utc
    from fpgan.attribution.sqlite_tables import is_sqlite
    from fpgan.attribution.stores import open_database
    from fpgan.io.files import locked, writing

    if is_sqlite(registry):
        with open_database(registry) as database:
            database.record_release(user, detail)
        return
    line = json.dumps({"user": user, "time": utc(int(time.time()))} | detail) + "\n"
    path = f"{registry}.releases.jsonl"
    with locked(f"{os.path.realpath(registry)}.lock"), writing(path):
        with open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
