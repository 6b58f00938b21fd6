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

# Built in some servers only, and three to five times cheaper than pglz for large JSON.
_COMPRESS_WITH_LZ4 = """
DO $$ BEGIN
  IF EXISTS (
    SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
  ) THEN
    ALTER TABLE states ALTER COLUMN state_data SET COMPRESSION lz4;
    ALTER TABLE states ALTER COLUMN patch SET COMPRESSION lz4;
    ALTER TABLE messages ALTER COLUMN content SET COMPRESSION lz4;
    ALTER TABLE messages ALTER COLUMN tool_calls SET COMPRESSION lz4;
    ALTER TABLE messages ALTER COLUMN extra SET COMPRESSION lz4;
  END IF;
END $$
"""

_WHOLE_OR_PATCH = (
    "CASE WHEN base_id IS NULL THEN state_data IS NOT NULL AND patch IS NULL "
    "ELSE state_data IS NULL AND patch IS NOT NULL AND base_id < state_id END"
)
_CREATE_GUARD = """\
CREATE FUNCTION refuse_change_of_base() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  found bigint;
BEGIN
  EXECUTE format('SELECT state_id FROM %I.%I WHERE thread_id = $1 AND base_id = $2', TG_TABLE_SCHEMA, TG_TABLE_NAME)
    INTO found USING OLD.thread_id, OLD.state_id;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'a later version is kept as what changed since version % of this thread', OLD.state_id
      USING ERRCODE = 'restrict_violation', HINT = 'Save a new version instead of changing an old one.';
  END IF;
  RETURN NEW;
END
$$"""
_HANG_GUARD = """\
CREATE TRIGGER refuse_change_of_base BEFORE UPDATE OF state_data ON states FOR EACH ROW
WHEN (OLD.state_data IS NOT NULL AND OLD.state_data IS DISTINCT FROM NEW.state_data)
EXECUTE FUNCTION refuse_change_of_base()"""
# For each key of a state: the last time that it was set or dropped, and what was done to the end of its list since.
_CREATE_VIEW = """\
CREATE VIEW state_versions WITH (security_invoker = true) AS
SELECT s.thread_id, s.state_id, CASE WHEN s.base_id IS NULL THEN s.state_data ELSE folded.state_data END AS state_data,
  s.meta, s.created_at, s.updated_at
FROM states AS s
LEFT JOIN LATERAL (
  WITH RECURSIVE chain AS (
    SELECT s.state_id, s.base_id, s.state_data, s.patch WHERE s.base_id IS NOT NULL
    UNION ALL
    SELECT base.state_id, base.base_id, base.state_data, base.patch
    FROM chain JOIN states AS base ON base.thread_id = s.thread_id AND base.state_id = chain.base_id
  ), changes AS (
    SELECT chain.state_id, entry.key, jsonb_build_object('set', entry.value) AS change
    FROM chain CROSS JOIN LATERAL jsonb_each(chain.state_data) AS entry WHERE chain.base_id IS NULL
    UNION ALL
    SELECT chain.state_id, entry.key, entry.value
    FROM chain CROSS JOIN LATERAL jsonb_each(chain.patch) AS entry WHERE chain.base_id IS NOT NULL
  ), placed AS (
    SELECT changes.*,
      max(state_id) OVER (PARTITION BY key) AS newest,
      max(state_id) FILTER (WHERE NOT change ? 'keep') OVER (PARTITION BY key) AS since,
      min((change ->> 'keep')::bigint) OVER (
        PARTITION BY key ORDER BY state_id ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
      ) AS kept
    FROM changes
  ), joined AS (
    SELECT placed.key, CASE
      WHEN placed.since = placed.newest THEN jsonb_agg(placed.change -> 'set') -> 0
      ELSE coalesce(jsonb_agg(item.value ORDER BY placed.state_id, item.place) FILTER (WHERE item.place > 0), '[]')
      END AS value
    FROM placed LEFT JOIN LATERAL jsonb_array_elements(
      CASE WHEN placed.since < placed.newest THEN coalesce(placed.change -> 'add', placed.change -> 'set') END
    ) WITH ORDINALITY AS item (value, place)
      ON placed.kept IS NULL OR coalesce((placed.change ->> 'keep')::bigint, 0) + item.place <= placed.kept
    WHERE placed.state_id >= placed.since AND (placed.since < placed.newest OR placed.change ? 'set')
    GROUP BY placed.key, placed.since, placed.newest
  )
  SELECT coalesce(jsonb_object_agg(joined.key, joined.value), '{}') AS state_data FROM joined
) AS folded ON true"""


def upgrade() -> None:
    operations.limit_lock_waits()
    _create_config()
    _create_threads()
    _create_states()
    _create_messages()
    op.execute(_COMPRESS_WITH_LZ4)


def downgrade() -> None:
    operations.limit_lock_waits()
    op.execute("DROP VIEW state_versions")
    for table in ("messages", "states", "threads", "persistence_config"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change_of_base()")
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
        sa.Column("state_data", postgresql.JSONB()),
        *_timestamps(),
        _json_object("meta"),
        sa.Column("base_id", sa.BigInteger()),
        sa.Column("patch", postgresql.JSONB()),
        sa.PrimaryKeyConstraint("thread_id", "state_id", name=op.f("pk_states")),
        _thread_key("states"),
        sa.ForeignKeyConstraint(
            ["thread_id", "base_id"], ["states.thread_id", "states.state_id"], name=op.f("fk_states_thread_id_states")
        ),
        sa.CheckConstraint(_WHOLE_OR_PATCH, name=op.f("ck_states_whole_or_patch")),
    )
    # Only versions that are kept as changes are in it.
    op.create_index(
        op.f("ix_states_thread_id_base_id"),
        "states",
        ["thread_id", "base_id"],
        postgresql_where=sa.text("base_id IS NOT NULL"),
    )
    for statement in (_CREATE_GUARD, _HANG_GUARD, _CREATE_VIEW):
        op.execute(statement)


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
    """What makes a key of a kind that the database numbers; nothing for the others."""
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
