"""Run the command line: `python -m kiloset COMMAND ...`."""

from kiloset.cli import main

if __name__ == "__main__":
    main()
