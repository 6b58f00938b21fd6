"""Alembic's environment for the application's history."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from agent_persistence import migrate
from chat.database import read_settings
from chat.models import Base

settings = read_settings()


def run_migrations(connection: Connection) -> None:
    """Run the migrations of the current Alembic command."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # Of agent-persistence's tables, compare only foreign keys to the application's; its history owns the rest.
        include_object=migrate.include_object(settings),
    )
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    """Connect to the address that agent-persistence migrates."""
    url = settings.migration_database
    if url is None:
        raise SystemExit("set PERSISTENCE_DATABASE_URL to the address of the database")
    engine = create_async_engine(url.sqlalchemy_url, connect_args=url.connect_args, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run_migrations)


asyncio.run(main())
