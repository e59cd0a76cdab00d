"""The command line: arguments to calls, nothing else."""

from sgpo.cli.main import main

__all__ = ["main"]
