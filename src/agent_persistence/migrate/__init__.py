"""Migrations: upgrade the schema of the database, and verify it.

    await migrate.upgrade(settings)             # from a program
    await migrate.verify(engine, settings)      # when an application starts

On the command line: ``alembic -c $(agent-persistence config)`` or ``agent-persistence upgrade``.
"""

from agent_persistence.migrate.commands import count_threads, current, downgrade, upgrade
from agent_persistence.migrate.config import alembic_config, alembic_ini, head
from agent_persistence.migrate.environment import run_env
from agent_persistence.migrate.host import context_options, include_name, include_object
from agent_persistence.migrate.optional import add_optional, list_optional, remove_optional
from agent_persistence.migrate.verify import verify

__all__ = [
    "add_optional",
    "alembic_config",
    "alembic_ini",
    "context_options",
    "count_threads",
    "current",
    "downgrade",
    "head",
    "include_name",
    "include_object",
    "list_optional",
    "remove_optional",
    "run_env",
    "upgrade",
    "verify",
]
