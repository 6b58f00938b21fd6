"""Allow states to be stored as changes of an earlier version.

Revision ID: ap0003
Revises: ap0002
Create Date: 2026-11-21 12:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from agent_persistence.migrate import operations

revision = "ap0003"
down_revision = "ap0002"
branch_labels = None
depends_on = None

_COMPRESS_WITH_LZ4 = """
DO $$ BEGIN
  IF EXISTS (
    SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
  ) THEN
    ALTER TABLE states ALTER COLUMN patch SET COMPRESSION lz4;
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
# For each key of a state: the last version that set or removed it, and the later changes to the end of its list.
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

# One statement, so that it reads every state as it was before the update.
_MAKE_WHOLE = """\
UPDATE states SET state_data = versions.state_data, base_id = NULL, patch = NULL
FROM state_versions AS versions
WHERE states.base_id IS NOT NULL AND versions.thread_id = states.thread_id AND versions.state_id = states.state_id"""


def upgrade() -> None:
    operations.limit_lock_waits()
    op.add_column("states", sa.Column("base_id", sa.BigInteger()))
    op.add_column("states", sa.Column("patch", postgresql.JSONB()))
    # A release that cannot read changes finds none until a later release writes them; see its notes on upgrading.
    op.execute("-- squawk-ignore ban-drop-not-null\nALTER TABLE states ALTER COLUMN state_data DROP NOT NULL")
    op.execute(_COMPRESS_WITH_LZ4)
    # Existing rows satisfy both. The next revision validates them, so that this one scans no rows under its lock.
    op.create_check_constraint(op.f("ck_states_whole_or_patch"), "states", _WHOLE_OR_PATCH, postgresql_not_valid=True)
    op.create_foreign_key(
        op.f("fk_states_thread_id_states"),
        "states",
        "states",
        ["thread_id", "base_id"],
        ["thread_id", "state_id"],
        postgresql_not_valid=True,
    )
    for statement in (_CREATE_GUARD, _HANG_GUARD, _CREATE_VIEW):
        op.execute(statement)


def downgrade() -> None:
    operations.limit_lock_waits()
    op.execute(_MAKE_WHOLE)
    op.execute("DROP VIEW state_versions")
    op.execute("DROP TRIGGER refuse_change_of_base ON states")
    op.execute("DROP FUNCTION refuse_change_of_base()")
    op.drop_constraint(op.f("fk_states_thread_id_states"), "states", type_="foreignkey")
    op.drop_constraint(op.f("ck_states_whole_or_patch"), "states", type_="check")
    op.alter_column("states", "state_data", nullable=False)
    op.drop_column("states", "patch")
    op.drop_column("states", "base_id")
