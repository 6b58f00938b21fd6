"""What ``import agent_persistence`` imports: a web process starts with it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys

def show():
    ours = {"agent_persistence." + room for room in ("cli", "degraded", "migrate", "testing", "transfer")}
    others = {"aioboto3", "alembic", "botocore", "click", "langchain_core", "langgraph", "mako", "rich", "typer"}
    print(*sorted(sys.modules.keys() & (ours | others)))

import agent_persistence
show()
import agent_persistence.integrations.fastapi
show()
print(agent_persistence.migrate.upgrade.__name__)
"""


def test_a_web_process_imports_nothing_of_migrations_the_command_line_and_optional_packages() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)

    assert ran.stdout.splitlines() == ["", "", "upgrade"]
