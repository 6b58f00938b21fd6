"""Every import and export, and every message on its way to both databases, as in ``test_every_message``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hardening.every_message import HELLO, KINDS, USER, Call, Store, a_run, check
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from torture.proxy import Proxy
from torture.servers import PostgreSQL

from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.transfer import source
from agent_persistence.transfer.agentflow import copy_tables
from agent_persistence.transfer.conversations import ConversationImporter, export_conversations, import_lines
from agent_persistence.transfer.langgraph import import_threads, open_tables

CONNECT_SECONDS, REPLY_SECONDS = 0.4, 0.6
AGENTFLOW = """
    CREATE SCHEMA IF NOT EXISTS agentflow;
    CREATE TABLE IF NOT EXISTS agentflow.threads (
        thread_id text PRIMARY KEY, thread_name text, user_id text, meta jsonb,
        created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
    CREATE TABLE IF NOT EXISTS agentflow.messages (
        message_id text PRIMARY KEY, thread_id text, role text, content text, reasoning text, tool_calls jsonb,
        usages jsonb, meta jsonb, created_at timestamptz DEFAULT now());
    CREATE TABLE IF NOT EXISTS agentflow.states (state_id serial PRIMARY KEY, thread_id text, state_data jsonb);
    TRUNCATE agentflow.threads;
    INSERT INTO agentflow.threads VALUES ('{at}-1', 'one', 'ann', '{{}}'), ('{at}-2', 'two', 'ann', '{{}}');
    INSERT INTO agentflow.messages VALUES ('{at}-m', '{at}-1', 'user', 'hello', '', '[]', '{{}}', '{{}}');
    INSERT INTO agentflow.states (thread_id, state_data) VALUES ('{at}-1', '{{"context": []}}');
"""
LANGGRAPH = """
    CREATE TABLE IF NOT EXISTS checkpoints (
        thread_id text, checkpoint_ns text, checkpoint_id text, parent_checkpoint_id text, checkpoint jsonb,
        metadata jsonb);
    CREATE TABLE IF NOT EXISTS checkpoint_blobs (
        thread_id text, checkpoint_ns text, channel text, version text, type text, blob bytea);
    CREATE TABLE IF NOT EXISTS checkpoint_writes (
        thread_id text, checkpoint_ns text, checkpoint_id text, task_id text, task_path text, idx int, channel text,
        type text, blob bytea);
    TRUNCATE checkpoints;
    INSERT INTO checkpoints SELECT '{at}-' || number, '', '1', NULL,
        '{{"v": 4, "id": "1", "channel_values": {{"n": 1}}, "channel_versions": {{"n": 1}}}}', '{{}}'
        FROM generate_series(1, 2) AS number;
"""

ONE_THREAD = "DELETE FROM threads WHERE thread_id <> '{at}';"


def address(store: Store) -> str:
    return store.engine.url.render_as_string(hide_password=False).replace("+asyncpg", "")


async def fill(store: Store, thread_id: str, script: str) -> None:
    engine = create_async_engine(store.engine.url)
    async with engine.begin() as connection:
        for statement in script.format(at=thread_id).split(";\n"):
            if statement.strip():
                await connection.execute(text(statement.replace(":", "\\:")))
    await engine.dispose()


async def import_conversations(store: Store, thread_id: str) -> None:
    lines = [json.dumps({"id": f"{thread_id}-{number}", "messages": [HELLO]}).encode() for number in range(2)]
    importer = ConversationImporter(store, USER)
    assert all([line.refusal is None async for line in import_lines(importer, lines)])


async def import_agentflow(store: Store, _: str) -> None:
    url = DatabaseUrl.parse(address(store), "URL")
    assert all([thread.reason is None async for thread in copy_tables(url, store, schema="agentflow")])


async def import_langgraph(store: Store, _: str) -> None:
    async with open_tables(address(store)) as tables:
        imported = import_threads(tables, store, owner_of=lambda _: USER)
        assert all([thread.refusal is None async for thread in imported])


async def export(store: Store, _: str) -> None:
    written: list[bytes] = []
    assert [one async for one in export_conversations(store, USER, written.append)]


def a_transfer(settings: Any) -> float:
    return max(a_run(settings), CONNECT_SECONDS + REPLY_SECONDS)


CALLS = {
    "import": Call(import_conversations, "threads", 2, a_transfer, in_parts=True),
    "import-agentflow": Call(
        import_agentflow, "threads", 2, a_transfer, lambda store, at: fill(store, at, AGENTFLOW), in_parts=True
    ),
    "import-langgraph": Call(
        import_langgraph, "threads", 2, a_transfer, lambda store, at: fill(store, at, LANGGRAPH), in_parts=True
    ),
    "export": Call(export, prepare=lambda store, at: fill(store, at, ONE_THREAD)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_import_and_export_ends_in_time_and_can_be_repeated(
    kind: str, name: str, limited: Store, messages: Proxy, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "CONNECT_SECONDS", CONNECT_SECONDS)
    monkeypatch.setattr(source, "REPLY_SECONDS", REPLY_SECONDS)
    await check(kind, CALLS[name], limited, messages, postgresql)
