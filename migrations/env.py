"""What Alembic runs for every command."""

from agent_persistence import migrate

migrate.run_env()
