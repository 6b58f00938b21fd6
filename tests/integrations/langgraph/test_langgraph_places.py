"""The checkpointer in a schema of its own, under row-level security, and over a host's own models."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from checkpoints import put, values_of
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from agent_persistence import (
    STRING,
    IdTypes,
    MessageMixin,
    Models,
    Persistence,
    PersistenceSettings,
    StateMixin,
    ThreadMixin,
    migrate,
)
from agent_persistence.integrations.langgraph import PersistenceSaver
from graphs import HELLO, talker

MakeDatabase = Callable[[], Awaitable[str]]


def settings_of(url: str, **values: Any) -> PersistenceSettings:
    return PersistenceSettings(_env_file=None, database_url=url, **values)


async def use(saver: PersistenceSaver, config: Any) -> None:
    """Save, read, list, copy, prune and delete."""
    thread_id = config["configurable"]["thread_id"]
    await talker(3).compile(checkpointer=saver).ainvoke(HELLO, config)
    before = await values_of(saver, config)
    await saver.acopy_thread(thread_id, f"{thread_id}-copy")
    await saver.aprune([thread_id])

    assert await values_of(saver, config) == before
    assert len([one async for one in saver.alist(None)]) == 1 + 5
    await saver.adelete_for_runs(["none"])
    for one in (thread_id, f"{thread_id}-copy"):
        await saver.adelete_thread(one)
    assert [one async for one in saver.alist(None)] == []


async def test_it_works_in_a_schema_of_its_own(make_database: MakeDatabase, config: Any) -> None:
    settings = settings_of(await make_database(), db_schema="agents")
    await migrate.upgrade(settings)

    async with Persistence(settings) as persistence:
        await use(PersistenceSaver(persistence, user_id="u-1"), config)


async def test_it_works_over_a_hosts_own_models(make_database: MakeDatabase, config: Any) -> None:
    class Base(DeclarativeBase):
        metadata = MetaData()
        __id_types__ = IdTypes(STRING, STRING)

    class Thread(ThreadMixin[str, str], Base):
        pass

    class State(StateMixin[str], Base):
        pass

    class Message(MessageMixin[str], Base):
        pass

    settings = settings_of(await make_database())
    await migrate.upgrade(settings)

    async with Persistence(settings, models=Models(Thread, State, Message)) as persistence:
        await use(PersistenceSaver(persistence, user_id="u-1"), config)


async def test_policies_hide_the_checkpoints_of_others(make_database: MakeDatabase, config: Any) -> None:
    url, role = await make_database(), f"role_{uuid.uuid4().hex[:12]}"
    await migrate.upgrade(settings_of(url))
    await migrate.add_optional(settings_of(url), "row-level-security")
    administrator = await asyncpg.connect(url)
    await administrator.execute(
        f"CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};"
    )
    application = url.replace("//postgres@", f"//{role}@")
    try:
        async with Persistence(settings_of(application, row_level_security=True)) as persistence:
            await use(PersistenceSaver(persistence, user_id="u-1"), config)
            await put(PersistenceSaver(persistence, user_id="u-1"), config, {"text": "x" * 99})
        plain = await asyncpg.connect(application)
        hidden = [
            await plain.fetchval(f"SELECT count(*) FROM {table}") for table in ("graph_checkpoints", "graph_values")
        ]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await plain.execute(
                "INSERT INTO graph_values (thread_id, checkpoint_ns, channel, cells, content) "
                "VALUES ($1, '', '', '', '')",
                config["configurable"]["thread_id"],
            )
        await plain.close()
    finally:
        await administrator.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await administrator.close()

    assert hidden == [0, 0]
