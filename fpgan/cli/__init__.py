"""The command line: one module per command with EXAMPLE, add_arguments(parser) and run(args) -> exit code."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command, see `fpgan.cli.app`."""
    from fpgan.cli.app import main

    return main(argv)
