"""The command line: one module per command with EXAMPLE, add_arguments(parser) and run(args) -> exit code."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command, see `fpgan.cli.app`."""
    import atexit
    import gc

    from fpgan.cli.app import main

    atexit.register(gc.freeze)  # what dies with the process is not searched for garbage: a third of a second
    return main(argv)
