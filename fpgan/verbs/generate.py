"""`fpgan generate`: images of one or many users' model instances, with a manifest."""

from __future__ import annotations

import argparse

from fpgan.verbs.terminal import positive, progress_line

EXAMPLE = """\
example: issue instances to two users, then make 100 images of each

  fpgan generate --user alice --user bob --registry registry.csv --issue \\
      --count 100 --seed 0 --out samples

writes samples/alice/000000.png ... samples/bob/000099.png, and samples/manifest.jsonl
with one line per image: file, sha256, user, fingerprint, seed, model. Image k of every
user has the latent seed SEED + k. The same command again makes only what is missing,
after a crash too; other arguments in the same folder are refused.

Other ways to name the instances:
  --fingerprint 5b83d0e03bd8602d29549acd8054045f     one, by its bits
  --users users.txt --key-file key.hex               derived from a provider's key
  --registry registry.csv                            everybody in the registry
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan generate`."""
    whose = parser.add_argument_group("whose instance")
    whose.add_argument("--fingerprint", metavar="HEX", help="a fingerprint in hexadecimal digits")
    whose.add_argument("--user", metavar="ID", action="append", default=[], help="a user id; may be repeated")
    whose.add_argument("--users", metavar="FILE", help="a file of user ids, one per line")
    whose.add_argument("--registry", metavar="CSV", help="the registry: a CSV file with user,fingerprint")
    whose.add_argument("--key-file", metavar="FILE",
                       help="a provider's secret key (hexadecimal digits or raw bytes) instead")
    whose.add_argument("--issue", action="store_true",
                       help="give users who are not in the registry a random fingerprint, and add them to it")
    what = parser.add_argument_group("what to make")
    what.add_argument("--out", metavar="DIR", required=True, help="folder for images and manifest")
    what.add_argument("--count", metavar="N", type=positive, default=1,
                      help="images per instance (default 1)")
    what.add_argument("--seed", metavar="S", type=int, default=0,
                      help="latent seed of each instance's first image (default 0)")
    what.add_argument("--format", choices=("png", "array_record"), default="png",
                      help="one PNG file per image (default), or array_record shards of PNG records")
    what.add_argument("--model", metavar="NAME", default="robohash32",
                      help="a model's name or folder (default robohash32)")
    what.add_argument("--batch-size", metavar="N", type=positive, default=16,
                      help="images made at once (default 16)")
    what.add_argument("--workers", metavar="N", type=positive, default=8,
                      help="threads that encode and write (default 8)")


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan generate`; returns 0."""
    import fpgan
    from fpgan.attribution.registry import instances, read_users
    from fpgan.generation import generate_set

    model = fpgan.load(args.model)
    named = args.user + (read_users(args.users) if args.users else [])
    users, bits = instances(model.n_bits, fingerprint=args.fingerprint, users=named, path=args.registry,
                            key_file=args.key_file, issue_new=args.issue)
    outcome = generate_set(model, users, bits, args.out, count=args.count, seed=args.seed, format=args.format,
                           batch_size=args.batch_size, workers=args.workers,
                           progress=progress_line("generate"))
    there = outcome.total - outcome.made
    print(f"{outcome.made} images made, {there} were there; manifest: {outcome.manifest}")
    return 0
