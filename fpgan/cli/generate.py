"""`fpgan generate`: images of one or many users' model instances, with a manifest, in one or many processes."""

from __future__ import annotations

import argparse

from fpgan.cli.options import (
    add_instance_arguments,
    add_model_argument,
    add_process_arguments,
    process_of,
    registry_of,
)
from fpgan.cli.terminal import closing_line, positive, progress_line

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
    add_instance_arguments(whose, new=True)
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
    what.add_argument("--hand-out", metavar="DIR",
                      help="when the set is complete, also write DIR/USER.zip for each user: their images, nobody's "
                           "fingerprint")
    add_model_argument(what)
    what.add_argument("--batch-size", metavar="N", type=positive, default=16,
                      help="images made at once on each device (default 16)")
    what.add_argument("--threads", metavar="N", type=positive, help="threads that encode and write (default: CPU cores)")
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan generate`; returns 0."""
    import sys

    import fpgan
    from fpgan.generation.generate import generate_set
    from fpgan.generation.manifest import check_arguments

    process = process_of(args)
    check_arguments(args.per_user, args.seed, args.container, args.encoding, args.batch_size, args.shard_size)
    model = fpgan.load(args.model)
    outcome = generate_set(model, registry_of(args, model.n_bits), args.out, per_user=args.per_user, seed=args.seed,
                           container=args.container, encoding=args.encoding, batch_size=args.batch_size,
                           shard_size=args.shard_size, process=process, workers=args.threads,
                           progress=progress_line("generate"),
                           report=lambda line: print(f"fpgan generate: {process}: {line}", file=sys.stderr))
    print(closing_line(outcome, process, "made", "shards", f"the set is complete: {args.out}"))
    if args.hand_out is not None and not outcome.missing:
        from fpgan.generation.handout import hand_out

        written = hand_out(args.out, args.hand_out, progress_line("generate"))
        print(f"{written} archives to hand out were written: {args.hand_out}")
    return 0
