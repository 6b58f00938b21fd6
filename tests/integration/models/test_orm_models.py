"""The mapped classes in a host's hands: ours for any configuration, or the host's own with our mixins."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from integration.repository_testing import HELLO, run_sql
from pydantic import SecretStr
from sqlalchemy import BigInteger, ForeignKeyConstraint, Identity, MetaData, String, Uuid, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, configure_mappers, mapped_column, relationship, selectinload

from agent_persistence import migrate
from agent_persistence.errors import DatabaseError, InvalidInputError, SettingsError
from agent_persistence.ids import BIGINT, ID_TYPES, INT, STRING, UUID, IdTypes
from agent_persistence.models import (
    NAMING_CONVENTION,
    MessageMixin,
    MessageRole,
    Models,
    StateMixin,
    ThreadMixin,
    build_models,
)
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

META = {"a": [1, 1.0, True, None, 1e23, -0.0, "😀"]}


def sessions_of(store: Persistence[Any, Any]) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(store.engine, expire_on_commit=False)


def test_models_of_several_configurations_live_side_by_side() -> None:
    every = {
        (kind, user_kind, schema): build_models(IdTypes(ID_TYPES[kind], ID_TYPES[user_kind]), schema=schema)
        for kind in ID_TYPES
        for user_kind in ID_TYPES
        for schema in (None, "agents")
    }
    configure_mappers()

    assert len({models.Thread for models in every.values()}) == len(every) == 32
    for (kind, user_kind, schema), models in every.items():
        expected, expected_user = type(ID_TYPES[kind].sql_type()), type(ID_TYPES[user_kind].sql_type())
        thread, state, message = (inspect(model).local_table for model in (models.Thread, models.State, models.Message))
        columns = [thread.c.thread_id, state.c.thread_id, message.c.thread_id, message.c.message_id]
        assert {type(column.type) for column in columns} == {expected}
        assert type(thread.c.user_id.type) is expected_user
        assert {table.schema for table in (thread, state, message)} == {schema}
        assert models.id_types == IdTypes(ID_TYPES[kind], ID_TYPES[user_kind])
        assert {table.name for table in models.metadata.tables.values()} >= {"threads", "states", "messages"}


def test_the_same_configuration_has_the_same_models() -> None:
    assert build_models(IdTypes(UUID, INT)) is build_models(IdTypes(UUID, INT))
    assert build_models(IdTypes(UUID, INT)) is not build_models(IdTypes(UUID, INT), schema="agents")


async def test_rows_added_by_the_orm_get_ids_and_defaults_and_are_read_by_the_repositories(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    store, models = any_persistence, any_persistence.models
    async with sessions_of(store)() as session:
        thread = models.Thread(user_id=any_user, thread_name="ORM", meta=META)
        session.add(thread)
        await session.flush()
        message = models.Message(thread_id=thread.thread_id, role=MessageRole.ASSISTANT, content="hi")
        state = models.State(thread_id=thread.thread_id, state_data=META)
        session.add_all([message, state])
        await session.commit()

    found = await store.threads.require(thread.thread_id, user_id=any_user)
    read = await store.messages.require(thread.thread_id, message.message_id, user_id=any_user)
    saved = await store.states.require(thread.thread_id, user_id=any_user, fresh=True)
    assert isinstance(thread.thread_id, store.models.id_types.id.python_type)
    assert (found.name, found.user_id, found.archived) == ("ORM", any_user, False)
    assert repr(found.meta) == repr(META)
    assert read.message == {"role": "assistant", "content": "hi"}
    assert (read.role, read.total_tokens, read.usages, read.meta) == (MessageRole.ASSISTANT, 0, {}, {})
    assert repr(saved.data) == repr(META)
    assert (saved.version, saved.meta) == (state.state_id, {})


async def test_messages_added_together_by_the_orm_keep_their_order(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    store, models = any_persistence, any_persistence.models
    thread_id = (await store.threads.create(user_id=any_user)).thread_id

    async with sessions_of(store)() as session:
        session.add_all(models.Message(thread_id=thread_id, role="user", content=str(place)) for place in range(150))
        await session.commit()

    page = await store.messages.page(thread_id, user_id=any_user, limit=1000)
    assert [one.text for one in page] == [str(place) for place in range(150)]


async def test_rows_of_the_repositories_are_queried_by_the_orm(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    store = any_persistence
    thread_model, message_model, state_model = store.models.Thread, store.models.Message, store.models.State
    kept = await store.threads.create(user_id=any_user, name="kept", meta=META)
    gone = await store.threads.create(user_id=any_user, name="archived")
    await store.threads.archive(gone.thread_id, user_id=any_user)
    made = await store.messages.append_many(
        kept.thread_id, [HELLO, {"role": "tool", "content": "out", "tool_call_id": "c"}], user_id=any_user
    )
    saved = await store.states.put(kept.thread_id, META, user_id=any_user)

    async with sessions_of(store)() as session:
        mine = select(thread_model).where(thread_model.user_id == any_user)
        thread = (await session.scalars(mine.where(~thread_model.archived))).one()
        other = (await session.scalars(mine.where(thread_model.archived))).one()
        tools = await session.scalars(
            select(message_model).where(
                message_model.thread_id == kept.thread_id, message_model.role == MessageRole.TOOL
            )
        )
        state = await session.get_one(state_model, (kept.thread_id, saved.version))
        by_meta = await session.scalars(mine.where(thread_model.meta["a"][6].astext == "😀"))
        recent = await session.scalars(
            mine.where(thread_model.updated_at > datetime.now(UTC) - timedelta(hours=1)).order_by(
                thread_model.updated_at.desc()
            )
        )

        assert (thread.thread_id, thread.thread_name, thread.archived) == (kept.thread_id, "kept", False)
        assert repr(thread.meta) == repr(META)
        assert (thread.created_at, thread.updated_at) == (kept.created_at, kept.updated_at)
        assert (other.thread_id, other.archived) == (gone.thread_id, True)
        [tool] = tools
        assert (tool.message_id, tool.seq, tool.role) == (made[1].message_id, made[1].seq, MessageRole.TOOL)
        assert isinstance(tool.role, MessageRole)
        assert (tool.content, tool.tool_call_id, tool.extra) == ("out", "c", None)
        assert repr(state.state_data) == repr(META)
        assert by_meta.all() == [thread]
        assert recent.all() == [other, thread]


async def test_what_the_orm_changes_is_what_the_repositories_read(
    persistence: Persistence[str, str], user_id: str
) -> None:
    store = persistence
    made = await store.threads.create(user_id=user_id, meta={"n": 1})
    message = await store.messages.append(made.thread_id, HELLO, user_id=user_id)

    async with sessions_of(store)() as session:
        thread = await session.get_one(store.models.Thread, made.thread_id)
        thread.meta = {"n": True}  # equal to 1 for Python, and still a change
        row = await session.get_one(store.models.Message, (made.thread_id, message.message_id))
        row.content = "changed"
        await session.commit()

    changed = await store.threads.require(made.thread_id, user_id=user_id)
    assert repr(changed.meta) == "{'n': True}"
    assert changed.updated_at == made.updated_at  # only messages and states move it
    read = await store.messages.require(made.thread_id, message.message_id, user_id=user_id)
    assert (read.text, read.content) == ("changed", "changed")

    async with sessions_of(store)() as session:
        await session.delete(await session.get_one(store.models.Thread, made.thread_id))
        await session.commit()
    assert not await run_sql(store, "SELECT 1 FROM messages WHERE thread_id = :id", id=made.thread_id)


async def test_json_that_would_not_come_back_is_refused_by_the_orm_too(
    persistence: Persistence[str, str], user_id: str
) -> None:
    async with sessions_of(persistence)() as session:
        session.add(persistence.models.Thread(user_id=user_id, meta={"a": float("nan")}))
        with pytest.raises(InvalidInputError):
            await session.flush()


async def test_what_the_orm_has_not_written_yet_is_written_before_a_repository_looks(
    persistence: Persistence[str, str], user_id: str, new_ids: Any
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        thread = persistence.models.Thread(thread_id=new_ids.thread(), user_id=user_id)
        uow.session.add(thread)
        made = await uow.messages.append(thread.thread_id, HELLO)
        thread.thread_name = "renamed"
        found = await uow.threads.require(thread.thread_id)

    assert found.name == "renamed"
    assert (await persistence.messages.page(thread.thread_id, user_id=user_id)).items == (made,)


async def test_work_of_the_orm_and_of_the_repositories_is_one_transaction(
    persistence: Persistence[str, str], user_id: str
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        thread = persistence.models.Thread(user_id=user_id)
        uow.session.add(thread)
        await uow.session.flush()
        made = await uow.messages.append(thread.thread_id, HELLO)
        await uow.session.rollback()

    assert await persistence.threads.get(thread.thread_id, user_id=user_id) is None
    assert await persistence.messages.get(thread.thread_id, made.message_id, user_id=user_id) is None


async def test_a_schema_of_its_own_holds_everything(make_database: Any, user_id: str) -> None:
    settings = PersistenceSettings(
        _env_file=None, database_url=await make_database(), db_schema="Agents", id_type="int"
    )
    await migrate.upgrade(settings)

    async with Persistence[int, str](settings) as store:
        thread = await store.threads.create(user_id=user_id, thread_id=2)
        others = [await store.threads.create(user_id=user_id) for _ in range(2)]
        await store.messages.append(thread.thread_id, HELLO, user_id=user_id)
        await store.states.put(thread.thread_id, 1, user_id=user_id)
        async with sessions_of(store)() as session:
            roles = (await session.scalars(select(store.models.Message.role))).all()

        assert [one.thread_id for one in others] == [1, 3]
        assert roles == [MessageRole.USER]
        [[schemas]] = await run_sql(
            store,
            "SELECT array_agg(DISTINCT schemaname) FROM pg_tables WHERE tablename IN ('threads', 'states', 'messages')",
        )
        assert schemas == ["Agents"]


async def test_models_in_a_schema_that_the_settings_do_not_name_are_refused_when_the_store_opens(
    make_database: Any, user_id: str
) -> None:
    url = await make_database()
    settings = PersistenceSettings(_env_file=None, database_url=url)
    await migrate.upgrade(settings)
    models = build_models(settings.id_types, schema="crm")

    with pytest.raises(SettingsError, match="mapped in crm, but the tables are in public; set it to crm") as refusal:
        async with Persistence(settings, models=models):
            pass

    assert refusal.value.variable == "PERSISTENCE_DB_SCHEMA"
    await migrate.upgrade(settings.model_copy(update={"db_schema": "crm"}))
    role = settings.model_copy(update={"database_url": SecretStr(f"{url}&options=-csearch_path%3Dcrm")})
    async with Persistence(role, models=models) as store:
        assert (await store.threads.create(user_id=user_id)).user_id == user_id


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    __id_types__ = IdTypes(UUID, BIGINT)


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    threads: Mapped[list["Thread"]] = relationship(back_populates="user", lazy="raise", passive_deletes="all")


class Thread(ThreadMixin[uuid.UUID, int], Base):
    __table_args__ = (ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),)

    tenant: Mapped[str | None] = mapped_column(String(50))
    made_by: Mapped[str | None] = mapped_column(String(50), default=lambda: "a default")
    changed_by: Mapped[str | None] = mapped_column(String(50), onupdate=lambda: "a function")
    changed_in: Mapped[str | None] = mapped_column(String(50), onupdate="a constant")
    user: Mapped[User] = relationship(back_populates="threads", lazy="raise")


class State(StateMixin[uuid.UUID], Base):
    pass


class Message(MessageMixin[uuid.UUID], Base):
    rating: Mapped[int | None]


HOST_MODELS: Models[uuid.UUID, int] = Models(Thread, State, Message)


@pytest_asyncio.fixture
async def host(make_database: Any) -> AsyncIterator[Persistence[uuid.UUID, int]]:
    settings = PersistenceSettings(
        _env_file=None, database_url=await make_database(), id_type="uuid", user_id_type="bigint"
    )
    store = Persistence(settings, models=HOST_MODELS)
    async with store.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield store
    await store.aclose()


async def new_user(store: Persistence[uuid.UUID, int], name: str = "Ada") -> int:
    async with sessions_of(store)() as session:
        user = User(name=name)
        session.add(user)
        await session.commit()
    return user.id


async def test_a_host_s_own_classes_serve_the_repositories(host: Persistence[uuid.UUID, int]) -> None:
    user_id = await new_user(host)

    thread = await host.threads.create(user_id=user_id, name="mine")
    message = await host.messages.append(thread.thread_id, HELLO, user_id=user_id)
    state = await host.states.put(thread.thread_id, {"step": 1}, user_id=user_id, expected_version=0)

    assert host.models is HOST_MODELS
    assert isinstance(thread.thread_id, uuid.UUID)
    assert (await host.threads.page(user_id=user_id)).items == (thread,)
    assert (await host.messages.page(thread.thread_id, user_id=user_id)).items == (message,)
    assert await host.states.get(thread.thread_id, user_id=user_id) == state


async def test_a_host_s_columns_and_relationships_stand_beside_ours(host: Persistence[uuid.UUID, int]) -> None:
    user_id = await new_user(host)
    thread_id = (await host.threads.create(user_id=user_id)).thread_id
    message = await host.messages.append(thread_id, HELLO, user_id=user_id)

    async with sessions_of(host)() as session:
        user = await session.get_one(User, user_id, options=[selectinload(User.threads)])
        user.threads[0].tenant = "acme"
        (await session.get_one(Message, (thread_id, message.message_id))).rating = 5
        await session.commit()
        statement = (
            select(User.name, Thread.tenant, func.max(Message.rating))
            .join(Thread, Thread.user_id == User.id)
            .join(Message, Message.thread_id == Thread.thread_id)
            .group_by(User.name, Thread.tenant)
        )

        assert [tuple(row) for row in await session.execute(statement)] == [("Ada", "acme", 5)]


async def test_a_host_s_defaults_and_values_at_an_update_are_made(host: Persistence[uuid.UUID, int]) -> None:
    user_id = await new_user(host)
    renamed, appended_to, _ = [await host.threads.create(user_id=user_id) for _ in range(3)]

    await host.threads.update(renamed.thread_id, user_id=user_id, name="renamed")
    await host.messages.append(appended_to.thread_id, HELLO, user_id=user_id)  # not the first of the list: it moves

    found = await run_sql(host, "SELECT changed_by, changed_in FROM threads ORDER BY updated_at DESC, thread_id")
    made = ("a function", "a constant")
    assert sorted(map(tuple, found), key=str) == [made, made, (None, None)]
    assert [tuple(row) for row in await run_sql(host, "SELECT DISTINCT made_by FROM threads")] == [("a default",)]


async def test_a_thread_of_no_user_is_refused_by_the_host_s_foreign_key(host: Persistence[uuid.UUID, int]) -> None:
    with pytest.raises(DatabaseError) as caught:
        await host.threads.create(user_id=4711)

    assert (caught.value.sqlstate, caught.value.constraint) == ("23503", "fk_threads_user_id_users")
    assert isinstance(caught.value.__cause__, asyncpg.ForeignKeyViolationError)


async def test_a_deleted_user_takes_the_threads_along(host: Persistence[uuid.UUID, int]) -> None:
    user_id, other_id = await new_user(host), await new_user(host, "Bob")
    thread_id = (await host.threads.create(user_id=user_id)).thread_id
    await host.messages.append(thread_id, HELLO, user_id=user_id)
    kept = await host.threads.create(user_id=other_id)

    await run_sql(host, "DELETE FROM users WHERE id = :id", id=user_id)

    assert await host.threads.get(thread_id, user_id=user_id) is None
    assert len(await host.messages.page(thread_id, user_id=user_id)) == 0
    assert (await host.threads.page(user_id=other_id)).items == (kept,)


async def test_a_host_s_table_arguments_do_not_cost_our_indexes(host: Persistence[uuid.UUID, int]) -> None:
    rows = await run_sql(host, "SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")

    assert {row.indexname for row in rows} >= {"ix_threads_user_id_updated_at", "ix_messages_thread_id_seq"}


def test_a_host_s_user_id_is_of_the_type_that_the_base_names() -> None:
    assert isinstance(inspect(Thread).c.user_id.type, BigInteger)
    assert isinstance(inspect(Message).c.thread_id.type, Uuid)
    assert not inspect(Thread).c.user_id.autoincrement


SCRIPT = """
import asyncio, json
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from agent_persistence import Persistence
from agent_persistence.orm import Message, State, Thread, metadata, models

async def main():
    async with Persistence.from_env() as store, AsyncSession(store.engine, expire_on_commit=False) as session:
        thread = Thread(user_id=7, thread_name="from the environment")
        session.add(thread)
        await session.flush()
        session.add_all([Message(thread_id=thread.thread_id, role="user", content=str(n)) for n in range(3)])
        session.add(State(thread_id=thread.thread_id, state_data={"n": 1}))
        await session.commit()
        page = await store.messages.page(thread.thread_id, user_id=7)
        state = (await session.scalars(select(State))).one()
        print(json.dumps({
            "shared": store.models is models and metadata is models.metadata,
            "schema": Thread.__table__.schema,
            "id": type(thread.thread_id).__name__,
            "texts": [one.text for one in page],
            "state": state.state_data,
        }))

asyncio.run(main())
"""


async def test_the_models_of_the_environment_are_imported_by_name(make_database: Any, tmp_path: Path) -> None:
    variables = {
        "PERSISTENCE_DATABASE_URL": await make_database(),
        "PERSISTENCE_ID_TYPE": "bigint",
        "PERSISTENCE_USER_ID_TYPE": "int",
        "PERSISTENCE_DB_SCHEMA": "agents",
    }
    await migrate.upgrade(
        PersistenceSettings(
            _env_file=None,
            database_url=variables["PERSISTENCE_DATABASE_URL"],
            id_type="bigint",
            user_id_type="int",
            db_schema="agents",
        )
    )

    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env={**os.environ, **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stderr == ""
    assert json.loads(ran.stdout) == {
        "shared": True,
        "schema": "agents",
        "id": "int",
        "texts": ["0", "1", "2"],
        "state": {"n": 1},
    }


def test_string_ids_are_the_default() -> None:
    models = build_models(IdTypes(STRING, STRING))

    assert isinstance(inspect(models.Thread).c.thread_id.type, String)
    assert inspect(models.Thread).c.thread_id.type.collation == "C"
