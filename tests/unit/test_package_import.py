"""What ``import agent_persistence`` imports."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import agent_persistence
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"alembic", "mako"}))
print(agent_persistence.migrate.upgrade.__name__)
"""


def test_migrations_are_imported_when_they_are_used() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)

    assert ran.stdout.splitlines() == ["", "upgrade"]
