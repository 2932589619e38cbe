"""fpgan export: turns a training checkpoint into a model directory."""

EXAMPLE = """\
example: from a run to a model that every verb takes

  fpgan export --workdir runs/smoke --out models/smoke
  fpgan decode --model models/smoke photos/"""


def add_arguments(parser):
    """Declares the arguments."""
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--out", required=True, help="model directory to write")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    parser.add_argument("--name", default="", help="name of the model (default: the directory's)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the stored parameters")


def run(args) -> int:
    """Exports."""
    from fpgan.errors import missing_extra

    try:
        from fpgan.training.export import export
    except ModuleNotFoundError as error:
        raise missing_extra(error.name, "train") from None
    model = export(args.workdir, args.out, args.step, args.name, args.dtype)
    print(f"{args.out}: model {model.name}, {model.n_bits} bits, {model.resolution}x{model.resolution}, "
          f"{model.info['training']['images_seen']:,} images seen, hash {model.hash}")
    return 0
