"""The table of stages and the command line."""
