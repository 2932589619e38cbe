"""`fpgan generate`: images of one or many users' model instances, with a manifest, in one or many processes."""

from __future__ import annotations

import argparse

from fpgan.cli.options import add_process_arguments, share_of
from fpgan.cli.terminal import positive, progress_line

EXAMPLE = """\
example: issue instances to two users, then make 100 images of each

  fpgan generate --user alice --user bob --registry registry.csv --issue \\
      --per-user 100 --seed 0 --out samples

writes samples/alice/000000.png ... samples/bob/000099.png, and samples/manifest/ with one line
per image: file, sha256, user, fingerprint, seed, model. Image k of every user has the latent
seed SEED + k. The same command again makes only what is missing, after a crash too; other
arguments in the same folder are refused. fpgan verify checks a set.

Other ways to name the instances:
  --users users.csv                                  a registry: everybody in it
  --users users.txt --key-file key.hex               ids, derived from a provider's key
  --registry registry.csv --user alice               some of a registry
  --fingerprint 5b83d0e03bd8602d29549acd8054045f     one, by its bits

A large set, by as many processes as there are; each starts the same command on a folder that
all share (under srun without the last two options):

  fpgan generate --users users.csv --per-user 1000 --container array_record --batch-size 256 \\
      --out /shared/set --process-id I --num-processes N
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan generate`."""
    whose = parser.add_argument_group("whose instance")
    whose.add_argument("--fingerprint", metavar="HEX", help="a fingerprint in hexadecimal digits")
    whose.add_argument("--user", metavar="ID", action="append", default=[], help="a user id; may be repeated")
    whose.add_argument("--users", metavar="FILE", help="a registry, or a file of user ids, one per line")
    whose.add_argument("--registry", metavar="CSV", help="the registry: a CSV file with user,fingerprint")
    whose.add_argument("--key-file", metavar="FILE",
                       help="a provider's secret key (hexadecimal digits or raw bytes) instead")
    whose.add_argument("--issue", action="store_true",
                       help="give users who are not in the registry a random fingerprint, and add them to it")
    what = parser.add_argument_group("what to make")
    what.add_argument("--out", metavar="DIR", required=True, help="folder for images and manifest")
    what.add_argument("--per-user", metavar="K", type=positive, default=1, help="images per instance (default 1)")
    what.add_argument("--seed", metavar="S", type=int, default=0,
                      help="latent seed of each instance's first image (default 0)")
    what.add_argument("--container", choices=("files", "array_record"), default="files",
                      help="a file per image (default), or an array_record file per shard")
    what.add_argument("--encoding", choices=("png", "webp"), default="png", help="PNG (default) or lossless WebP")
    what.add_argument("--shard-size", metavar="N", type=positive, default=4096,
                      help="images per shard, the piece of work of a process (default 4096)")
    what.add_argument("--model", metavar="NAME", default="robohash32",
                      help="a model's name or folder (default robohash32)")
    what.add_argument("--batch-size", metavar="N", type=positive, default=16,
                      help="images made at once (default 16)")
    what.add_argument("--threads", metavar="N", type=positive, help="threads that encode and write (default: CPU cores)")
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan generate`; returns 0."""
    import sys

    import fpgan
    from fpgan.cli.options import instances
    from fpgan.generation.generate import generate_set
    from fpgan.generation.manifest import check_arguments

    share = share_of(args)
    check_arguments(args.per_user, args.seed, args.container, args.encoding, args.batch_size, args.shard_size)
    model = fpgan.load(args.model)
    users, bits = instances(model.n_bits, fingerprint=args.fingerprint, users=args.user, users_file=args.users,
                            path=args.registry, key_file=args.key_file, issue_new=args.issue)
    outcome = generate_set(model, users, bits, args.out, per_user=args.per_user, seed=args.seed, container=args.container,
                           encoding=args.encoding, batch_size=args.batch_size, shard_size=args.shard_size, share=share,
                           workers=args.threads, progress=progress_line("generate"),
                           report=lambda line: print(f"fpgan generate: {share}: {line}", file=sys.stderr))
    print(f"{outcome.made} images made, {outcome.total - outcome.made} were there" +
          (f" ({share}, of {outcome.set_total} images)" if share.count > 1 else "") +
          (f"; {outcome.missing_shards} shards of other processes are not finished" if outcome.missing_shards else
           f"; the set is complete: {args.out}"))
    return 0
