"""Look for revisions that would stop a database at work: ``make migration-lint``. No server is asked.

Each revision is linted alone, as the script that it is for each kind of id: in a script with others, a table would
pass for a new and empty one that has long been filled. The first revision makes all tables, and is left out.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from agent_persistence import migrate
from agent_persistence.ids import ID_TYPES
from agent_persistence.settings import PersistenceSettings

SQUAWK: Final = Path(sys.executable).with_name("squawk")
_OLDEST_POSTGRESQL: Final = "15"
_EXCLUDED: Final = {
    "prefer-text-field": "ids are VARCHAR(255), which limits what a careless caller can store",
    "prefer-bigint-over-int": "int is one of the kinds of id that a host may choose",
}


def lint(ini: Path) -> subprocess.CompletedProcess[str]:
    """Lint every revision but the first; the exit code is 0 where nothing was found."""
    with tempfile.TemporaryDirectory(prefix="migration-lint-") as folder:
        for name, script in _scripts(ini):
            (Path(folder) / name).write_text(script, encoding="utf-8")
        options = [f"--pg-version={_OLDEST_POSTGRESQL}", f"--exclude={','.join(_EXCLUDED)}"]
        files = sorted(path.name for path in Path(folder).iterdir())
        return subprocess.run([SQUAWK, *options, *files], cwd=folder, text=True, capture_output=True, check=False)


def _scripts(ini: Path) -> Iterator[tuple[str, str]]:
    for kind in ID_TYPES:
        settings = PersistenceSettings(
            _env_file=None, id_type=kind, user_id_type=kind, id_generator=None, db_schema=None
        )
        config = Config(str(ini), attributes={"settings": settings})
        for revision in ScriptDirectory.from_config(config).walk_revisions():
            if revision.down_revision is not None:
                span = f"{revision.down_revision}:{revision.revision}"
                yield f"{revision.revision}-{kind}.sql", _output_of(config, span)


def _output_of(config: Config, span: str) -> str:
    config.output_buffer = StringIO()
    command.upgrade(config, span, sql=True)
    return config.output_buffer.getvalue()


if __name__ == "__main__":
    result = lint(migrate.alembic_ini())
    print(result.stdout, result.stderr, sep="", end="")
    sys.exit(result.returncode)
