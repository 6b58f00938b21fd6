"""The command ``agent-persistence``, for terminals and scripts (extra ``cli``)."""

import sys
from importlib import import_module
from importlib.util import find_spec

from agent_persistence.errors import MissingExtraError

__all__ = ["main"]

_USAGE_ERROR = 2


def main() -> None:
    """Run the command line."""
    # The script is installed even without the extra; then it names the missing extra.
    if not all(map(find_spec, ("rich", "typer"))):
        sys.stderr.write(f"The command line is {MissingExtraError('cli')}\n")
        sys.exit(_USAGE_ERROR)
    import_module("agent_persistence.cli.app").run()
