"""The command line: one module per command with EXAMPLE, add_arguments(parser) and run(args) -> exit code."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command, see `fpgan.cli.app`."""
    import atexit
    import gc
    import sys

    if argv is None:
        from fpgan.cli.huge_pages import use_huge_pages
        use_huge_pages(sys.argv[1] if len(sys.argv) > 1 else "")
    from fpgan.cli.app import main

    atexit.register(gc.freeze)  # what dies with the process is not searched for garbage: a third of a second
    return main(argv)
