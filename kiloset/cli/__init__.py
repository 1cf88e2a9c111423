"""The command line."""


def main() -> None:
    """Run the command line: `kiloset COMMAND ...`."""
    from kiloset.cli.app import run

    run()
