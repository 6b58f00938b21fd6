"""Create the tables.

Revision ID: ap0001
Revises:
Create Date: 2026-11-21 00:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from agent_persistence.migrate import operations

revision = "ap0001"
down_revision = None
branch_labels = ("agent_persistence",)
depends_on = None

# lz4 is three to five times cheaper than pglz for large JSON, but not every server is built with it.
_COMPRESS_WITH_LZ4 = """
DO $$ BEGIN
  IF EXISTS (
    SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
  ) THEN
    ALTER TABLE states ALTER COLUMN state_data SET COMPRESSION lz4;
    ALTER TABLE messages ALTER COLUMN content SET COMPRESSION lz4;
    ALTER TABLE messages ALTER COLUMN tool_calls SET COMPRESSION lz4;
    ALTER TABLE messages ALTER COLUMN extra SET COMPRESSION lz4;
  END IF;
END $$
"""


def upgrade() -> None:
    operations.limit_lock_waits()
    _create_config()
    _create_threads()
    _create_states()
    _create_messages()
    op.execute(_COMPRESS_WITH_LZ4)


def downgrade() -> None:
    operations.limit_lock_waits()
    for table in ("messages", "states", "threads", "persistence_config"):
        op.drop_table(table)
    op.execute("DROP TYPE message_role")


def _create_config() -> None:
    config = op.create_table(
        "persistence_config",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_persistence_config")),
    )
    options = operations.options()
    op.bulk_insert(
        config,
        [
            {"key": "id_type", "value": options.id_type},
            {"key": "user_id_type", "value": options.user_id_type},
        ],
    )


def _create_threads() -> None:
    op.create_table(
        "threads",
        sa.Column("thread_id", operations.id_type(), *_generated(), nullable=False),
        sa.Column("user_id", operations.user_id_type(), nullable=False),
        sa.Column("thread_name", sa.String(255)),
        sa.Column("archived_at", sa.DateTime(timezone=True)),
        *_timestamps(),
        _json_object("meta"),
        sa.PrimaryKeyConstraint("thread_id", name=op.f("pk_threads")),
    )
    op.create_index(
        op.f("ix_threads_user_id_updated_at"),
        "threads",
        ["user_id", "updated_at", "thread_id"],
        postgresql_where=sa.text("archived_at IS NULL"),
    )


def _create_states() -> None:
    op.create_table(
        "states",
        sa.Column("thread_id", operations.id_type(), nullable=False),
        sa.Column("state_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("state_data", postgresql.JSONB(), nullable=False),
        *_timestamps(),
        _json_object("meta"),
        sa.PrimaryKeyConstraint("thread_id", "state_id", name=op.f("pk_states")),
        _thread_key("states"),
    )


def _create_messages() -> None:
    op.execute("CREATE TYPE message_role AS ENUM ('user', 'assistant', 'system', 'tool')")
    op.create_table(
        "messages",
        sa.Column("thread_id", operations.id_type(), nullable=False),
        sa.Column("message_id", operations.id_type(), *_generated(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("role", postgresql.ENUM(name="message_role", create_type=False), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("tool_calls", postgresql.JSONB()),
        sa.Column("tool_call_id", sa.String(255)),
        sa.Column("reasoning", sa.Text()),
        sa.Column("total_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _json_object("usages"),
        sa.Column("extra", postgresql.JSONB()),
        *_timestamps(),
        _json_object("meta"),
        sa.PrimaryKeyConstraint("thread_id", "message_id", name=op.f("pk_messages")),
        _thread_key("messages"),
    )
    op.create_index(op.f("ix_messages_thread_id_seq"), "messages", ["thread_id", "seq"])


def _generated() -> list[sa.Identity]:
    """Return the identity of a key whose type the database numbers; nothing for other types."""
    return [sa.Identity()] if operations.options().id_type in {"int", "bigint"} else []


def _timestamps() -> list[sa.Column[object]]:
    return [
        sa.Column(name, sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)
        for name in ("created_at", "updated_at")
    ]


def _json_object(name: str) -> sa.Column[object]:
    return sa.Column(name, postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False)


def _thread_key(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["thread_id"], ["threads.thread_id"], name=op.f(f"fk_{table}_thread_id_threads"), ondelete="CASCADE"
    )
