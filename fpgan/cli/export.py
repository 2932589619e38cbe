"""fpgan export: turns a training checkpoint into a model directory."""

from fpgan.cli.terminal import not_negative, progress_line

EXAMPLE = """\
example: from a run to a model that every command takes

  fpgan export --workdir runs/smoke --out models/smoke
  fpgan decode --model models/smoke photos/

The same run with its fingerprint at half strength, read by a decoder that is fitted to it:

  fpgan export --workdir runs/smoke --out models/faint --strength 0.5 --readout-images 40000"""


def add_arguments(parser):
    """Declares the arguments."""
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--out", required=True, help="model directory to write")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    parser.add_argument("--name", default="", help="name of the model (default: the directory's)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the stored parameters")
    parser.add_argument("--strength", type=float, help="factor on the strength of the fingerprint: less is harder to "
                        "see and to read (default: the config's export.strength)")
    parser.add_argument("--readout-images", type=not_negative, help="fit the readout to so many generated images, 0 for "
                        "none (default: the config's export.readout_images)")


def run(args) -> int:
    """Exports."""
    from fpgan.training.export import export

    model = export(args.workdir, args.out, args.step, args.name, args.dtype, args.strength, args.readout_images,
                   progress_line("fpgan export"), print)
    print(f"{args.out}: model {model.name}, {model.n_bits} bits, {model.resolution}x{model.resolution}, "
          f"{model.info['training']['images_seen']:,} images seen, hash {model.hash}")
    return 0
