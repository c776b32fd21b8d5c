"""The command line. Importing it imports neither torch nor anything else that takes long."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `safelox` with these arguments (those of the process if None) and return its exit code."""
    from typer.main import get_command

    from safelox.cli.app import app
    from safelox.cli.session import run

    return run(get_command(app), list(sys.argv[1:] if arguments is None else arguments))


__all__ = ["main"]
