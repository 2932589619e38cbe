"""fpgan train: trains a model as a config says."""

import argparse

EXAMPLE = """\
example: train, in a directory of its own, and continue there

  fpgan train --config configs/smoke.py --workdir runs/smoke
  fpgan train --config configs/robohash64.py --workdir runs/cats batch_size=64 optimizer.beta1=0.0

Killed anywhere and started again with the same command, a run continues where its last
checkpoint stands and ends with the same parameters. SIGTERM saves first.

A run that goes on from the state of another one, with other settings, in a directory of its own:

  fpgan train --config configs/robohash64.py --workdir runs/softer --fork runs/cats \\
      objective.consistency=150

On several hosts start the same command in each. Slurm, Open MPI, TPU pods and Kubernetes Jobs
tell the processes where they meet; elsewhere say so, with I = 0, 1, ... and process 0 on HOST:

  fpgan train --coordinator HOST:9911 --num-processes 2 --process-id I \\
      --config configs/robohash64.py --workdir SHARED_FOLDER"""


def add_arguments(parser: argparse.ArgumentParser):
    """Declares the arguments."""
    parser.add_argument("--config", required=True, help="a config file, such as configs/robohash64.py")
    parser.add_argument("--workdir", required=True, help="directory of the run: checkpoints, metrics.jsonl, grids")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="several processes: where process 0 awaits the others")
    parser.add_argument("--num-processes", type=int, metavar="N", help="several processes: how many")
    parser.add_argument("--process-id", type=int, metavar="I", help="several processes: which one this is, from 0")
    parser.add_argument("--fork", metavar="RUN", help="begin from the newest state of another run, whose weights, rates and "
                        "data may differ; the new run records it")
    parser.add_argument("--extend", action="store_true", help="train on with a larger total_images also after the learning "
                        "rates have begun to fall; the run records it")
    parser.add_argument("--profile", metavar="FIRST:STOP", help="trace these steps into WORKDIR/profile, such as 100:110, "
                        "for jax.profiler's viewers, and sum them up (docs/benchmarks.md)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="fields of the config to set, dotted")


def run(args: argparse.Namespace) -> int:
    """Trains."""
    import contextlib
    import os

    from fpgan.distributed import runtime
    from fpgan.distributed.environment import detect_process
    from fpgan.distributed.profiler import StepTrace, parse_steps
    from fpgan.errors import missing_extra

    trace = StepTrace(os.path.join(args.workdir, "profile"), *parse_steps(args.profile)) if args.profile else None
    process = detect_process(args.process_id, args.num_processes, args.coordinator, meeting=True)
    with runtime.run("fpgan train", process), trace or contextlib.nullcontext():
        try:
            from fpgan.training import config, loop
        except ModuleNotFoundError as error:
            raise missing_extra(error.name, "train") from None
        loop.train(config.load(args.config, args.overrides), args.workdir, report=lambda line: print(line, flush=True),
                   fork=args.fork, extend=args.extend, trace=trace)
    if trace:
        _tell_trace(trace)
    return 0


def _tell_trace(trace) -> None:
    """Sums up a trace, or says that the run did not come to its steps."""
    from fpgan.benchmarks.trace import summary

    if trace.written:
        print("\n".join(summary(trace.folder)))
    else:
        print(f"no trace: the run did not come to step {trace.first}")
