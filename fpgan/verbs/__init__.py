"""One module per verb of the command line: EXAMPLE, add_arguments(parser) and run(args) -> exit code."""
