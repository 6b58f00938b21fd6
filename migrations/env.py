"""Alembic's environment, which every command runs."""

from agent_persistence import migrate

migrate.run_env()
