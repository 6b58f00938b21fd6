"""What type checkers know of the public API. Nobody runs this file; mypy and pyright read it, both strict."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any, assert_type

from redis.asyncio import Redis
from sqlalchemy import BigInteger, ForeignKeyConstraint, Identity, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from agent_persistence import (
    ANY_USER,
    BIGINT,
    STRING,
    UUID,
    Capability,
    Checkpoint,
    Checkpointer,
    CheckpointLimits,
    CorruptRowError,
    Health,
    IdType,
    IdTypes,
    MessageMixin,
    MessageRecord,
    MessageRole,
    Models,
    NewMessage,
    Page,
    Persistence,
    PersistenceSettings,
    RunClaim,
    StateMixin,
    StateRecord,
    ThreadMixin,
    ThreadRecord,
    ThreadSummary,
    UnitOfWork,
    build_models,
    uuid7,
)
from agent_persistence.backends.dynamodb import DynamoDBCheckpointer
from agent_persistence.backends.memory import MemoryCheckpointer
from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.backends.redis import RedisCheckpointer
from agent_persistence.errors import PersistenceError


async def a_store_knows_the_types_of_its_ids(persistence: Persistence[str, int], session: AsyncSession) -> None:
    assert_type(persistence.models, Models[str, int])
    assert_type(persistence.engine, AsyncEngine)
    assert_type(await persistence.health(), Health)
    async with persistence as opened:
        assert_type(opened, Persistence[str, int])
    async with persistence.begin(user_id=7) as uow:
        assert_type(uow, UnitOfWork[str, int])
        assert_type(uow.session, AsyncSession)
    async with persistence.claim_run("t-1", user_id=7) as claim:
        assert_type(claim, RunClaim[str, int])
    assert_type(persistence.bind(session, user_id=ANY_USER), UnitOfWork[str, int])


async def a_store_is_exact_from_where_its_types_are_named(settings: PersistenceSettings) -> None:
    named = Persistence[str, int](settings)
    assert_type(named, Persistence[str, int])
    assert_type(await named.threads.require("t", user_id=7), ThreadRecord[str, int])
    assert_type(Persistence[str, int].from_env(), Persistence[str, int])
    modelled = Persistence(settings, models=build_models(IdTypes(UUID, BIGINT)))
    assert_type(modelled, Persistence[uuid.UUID, int])
    assert_type(Persistence[uuid.UUID, str](settings).models, Models[uuid.UUID, str])


async def threads_in_a_unit_of_work(uow: UnitOfWork[str, int]) -> None:
    assert_type(await uow.threads.create(), ThreadRecord[str, int])
    assert_type(await uow.threads.create(thread_id="t", name="n", meta={"a": 1}, user_id=7), ThreadRecord[str, int])
    assert_type(await uow.threads.get("t"), ThreadRecord[str, int] | None)
    assert_type(await uow.threads.require("t"), ThreadRecord[str, int])
    assert_type(await uow.threads.update("t", name=None, meta={}), ThreadRecord[str, int])
    assert_type(await uow.threads.archive("t"), ThreadRecord[str, int])
    assert_type(await uow.threads.unarchive("t"), ThreadRecord[str, int])
    assert_type(await uow.threads.delete("t"), bool)
    page = await uow.threads.page(limit=5, after=None, search="x", meta={"a": 1}, archived=True)
    assert_type(page, Page[ThreadRecord[str, int]])


async def messages_in_a_unit_of_work(uow: UnitOfWork[uuid.UUID, str], thread_id: uuid.UUID) -> None:
    said = {"role": "user", "content": "hi"}
    new = NewMessage(message=said, message_id=uuid7(), total_tokens=1, usages={}, meta={})
    assert_type(new, NewMessage[uuid.UUID])
    assert_type(await uow.messages.append(thread_id, said), MessageRecord[uuid.UUID])
    assert_type(await uow.messages.append(thread_id, new, message_id=uuid7()), MessageRecord[uuid.UUID])
    assert_type(await uow.messages.append_many(thread_id, [said, new]), tuple[MessageRecord[uuid.UUID], ...])
    assert_type(await uow.messages.get(thread_id, thread_id), MessageRecord[uuid.UUID] | None)
    assert_type(await uow.messages.require(thread_id, thread_id), MessageRecord[uuid.UUID])
    assert_type(await uow.messages.update(thread_id, thread_id, message=said), MessageRecord[uuid.UUID])
    assert_type(await uow.messages.delete(thread_id, thread_id), bool)
    page = await uow.messages.page(thread_id, limit=5, before=None, after=None, search=None)
    assert_type(page, Page[MessageRecord[uuid.UUID]])


async def states_in_a_unit_of_work(uow: UnitOfWork[int, str], when: datetime) -> None:
    assert_type(await uow.states.put(1, {"a": 1}, meta={}, expected_version=0), StateRecord[int])
    assert_type(await uow.states.get(1), StateRecord[int] | None)
    assert_type(await uow.states.get(1, fresh=True, min_version=3), StateRecord[int] | None)
    assert_type(await uow.states.require(1), StateRecord[int])
    assert_type(await uow.states.get_version(1, 3), StateRecord[int] | None)
    assert_type(await uow.states.page(1, limit=5, after=None), Page[StateRecord[int]])
    assert_type(await uow.states.clear(1), int)
    assert_type(await uow.states.prune(1, keep_last=5, older_than=when), int)
    assert_type(await uow.states.prune(1, older_than=timedelta(days=30)), int)


async def one_call_at_a_time(persistence: Persistence[str, int], when: datetime) -> None:
    said = {"role": "user", "content": "hi"}
    assert_type(await persistence.threads.create(user_id=7), ThreadRecord[str, int])
    assert_type(await persistence.threads.get("t", user_id=7), ThreadRecord[str, int] | None)
    assert_type(await persistence.threads.require("t", user_id=ANY_USER), ThreadRecord[str, int])
    assert_type(await persistence.threads.page(user_id=ANY_USER), Page[ThreadRecord[str, int]])
    assert_type(await persistence.threads.update("t", user_id=7, name="n"), ThreadRecord[str, int])
    assert_type(await persistence.threads.archive("t", user_id=7), ThreadRecord[str, int])
    assert_type(await persistence.threads.unarchive("t", user_id=7), ThreadRecord[str, int])
    assert_type(await persistence.threads.delete("t", user_id=7), bool)
    assert_type(await persistence.messages.append("t", said, user_id=7), MessageRecord[str])
    assert_type(await persistence.messages.append_many("t", [said], user_id=7), tuple[MessageRecord[str], ...])
    assert_type(await persistence.messages.get("t", "m", user_id=7), MessageRecord[str] | None)
    assert_type(await persistence.messages.require("t", "m", user_id=7), MessageRecord[str])
    assert_type(await persistence.messages.page("t", user_id=7), Page[MessageRecord[str]])
    assert_type(await persistence.messages.update("t", "m", user_id=7, meta={}), MessageRecord[str])
    assert_type(await persistence.messages.delete("t", "m", user_id=7), bool)
    assert_type(await persistence.states.put("t", [1], user_id=7), StateRecord[str])
    assert_type(await persistence.states.get("t", user_id=7, fresh=True), StateRecord[str] | None)
    assert_type(await persistence.states.require("t", user_id=7), StateRecord[str])
    assert_type(await persistence.states.get_version("t", 1, user_id=7), StateRecord[str] | None)
    assert_type(await persistence.states.page("t", user_id=7), Page[StateRecord[str]])
    assert_type(await persistence.states.clear("t", user_id=7), int)
    assert_type(await persistence.states.prune("t", user_id=7, older_than=when), int)


def records_and_pages(
    thread: ThreadRecord[str, int],
    message: MessageRecord[uuid.UUID],
    state: StateRecord[int],
    page: Page[ThreadRecord[str, int]],
) -> None:
    assert_type(thread.thread_id, str)
    assert_type(thread.user_id, int)
    assert_type(thread.name, str | None)
    assert_type(thread.meta, dict[str, Any])
    assert_type(thread.archived_at, datetime | None)
    assert_type(thread.archived, bool)
    assert_type(message.thread_id, uuid.UUID)
    assert_type(message.message_id, uuid.UUID)
    assert_type(message.role, MessageRole | str)
    assert_type(message.message, dict[str, Any])
    assert_type(message.text, str)
    assert_type(message.tool_call_id, str | None)
    assert_type(message.created_at, datetime)
    assert_type(state.thread_id, int)
    assert_type(state.version, int)
    assert_type(page.items, tuple[ThreadRecord[str, int], ...])
    assert_type([one.thread_id for one in page], list[str])
    assert_type(page.after, str | None)
    assert_type(page.corrupt, tuple[CorruptRowError, ...])


def ids(kind: IdType[int]) -> None:
    assert_type(IdTypes(STRING, kind), IdTypes[str, int])
    assert_type(kind.validate("7", "user_id"), int)
    assert_type(kind.parse("7", "user_id"), int)
    assert_type(uuid7(), uuid.UUID)


def errors(error: PersistenceError) -> None:
    assert_type(error.retryable, bool)


class Base(DeclarativeBase):
    __id_types__ = IdTypes(STRING, BIGINT)


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    threads: Mapped[list[Thread]] = relationship(back_populates="user", lazy="raise")


class Thread(ThreadMixin[str, int], Base):
    __table_args__ = (ForeignKeyConstraint(["user_id"], ["users.id"]),)

    user: Mapped[User] = relationship(back_populates="threads", lazy="raise")


class State(StateMixin[str], Base):
    pass


class Message(MessageMixin[str], Base):
    pass


async def a_host_s_own_classes(settings: PersistenceSettings, session: AsyncSession) -> None:
    models = Models(Thread, State, Message)
    assert_type(models, Models[str, int])
    assert_type(Persistence(settings, models=models), Persistence[str, int])

    thread = (await session.scalars(select(Thread).where(Thread.user_id == 7))).one()
    assert_type(thread.thread_id, str)
    assert_type(thread.user_id, int)
    assert_type(thread.thread_name, str | None)
    assert_type(thread.archived, bool)
    assert_type(thread.user, User)
    ids_of_messages = await session.scalars(select(Message.message_id).order_by(Message.seq))
    assert_type(ids_of_messages.all()[0], str)
    state = (await session.scalars(select(State))).one()
    assert_type(state.state_id, int)


async def every_backend_is_a_checkpointer(persistence: Persistence[str, int], redis: Redis) -> None:
    limits = CheckpointLimits(max_history=3)
    backends: list[Checkpointer] = [
        PostgreSQLCheckpointer(persistence=persistence, user_id="7"),
        MemoryCheckpointer(user_id="u", limits=limits),
        RedisCheckpointer(user_id="u", client=redis, limits=limits),
        DynamoDBCheckpointer(user_id="u", limits=limits),
    ]
    for checkpointer in backends:
        assert_type(checkpointer.capabilities, frozenset[Capability])
        assert_type(await checkpointer.save_state("t", {}, expected_version=0, ttl=1.5), Checkpoint)
        assert_type(await checkpointer.load_state("t"), Checkpoint | None)
        assert_type(await checkpointer.delete_thread("t"), bool)
        assert_type(await checkpointer.list_threads(), Page[ThreadSummary])
        assert_type(await checkpointer.state_history("t"), Page[Checkpoint])
    async with RedisCheckpointer.from_env(user_id="u") as opened:
        assert_type(opened, RedisCheckpointer)
