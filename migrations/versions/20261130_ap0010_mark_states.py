"""Mark states, so that a writer finds its own after a lost reply, and note when states were deleted.

Revision ID: ap0010
Revises: ap0009
Create Date: 2026-11-30 16:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agent_persistence.migrate import operations

revision = "ap0010"
down_revision = "ap0009"
branch_labels = None
depends_on = None

_GUARD = """\
CREATE OR REPLACE FUNCTION refuse_change_of_base() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  found bigint;
BEGIN
{unmark}\
  EXECUTE format('SELECT state_id FROM %I.%I WHERE thread_id = $1 AND base_id = $2', TG_TABLE_SCHEMA, TG_TABLE_NAME)
    INTO found USING OLD.thread_id, OLD.state_id;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'a later version is kept as what changed since version % of this thread', OLD.state_id
      USING ERRCODE = 'restrict_violation', HINT = 'Save a new version instead of changing an old one.';
  END IF;
  RETURN NEW;
END
$$"""
_UNMARK = """\
  NEW.mark := NULL;
  IF OLD.state_data IS NULL AND NEW.patch IS NULL THEN
    RETURN NEW;
  END IF;
"""
_TAKE_DOWN = "DROP TRIGGER refuse_change_of_base ON states"
_HANG = """\
CREATE TRIGGER refuse_change_of_base BEFORE UPDATE OF state_data, patch ON states FOR EACH ROW
WHEN (OLD.state_data IS DISTINCT FROM NEW.state_data OR OLD.patch IS DISTINCT FROM NEW.patch)
EXECUTE FUNCTION refuse_change_of_base()"""
_HANG_AS_BEFORE = """\
CREATE TRIGGER refuse_change_of_base BEFORE UPDATE OF state_data ON states FOR EACH ROW
WHEN (OLD.state_data IS NOT NULL AND OLD.state_data IS DISTINCT FROM NEW.state_data)
EXECUTE FUNCTION refuse_change_of_base()"""


def upgrade() -> None:
    operations.limit_lock_waits()
    # NULL in existing rows: the next state of their thread is stored whole.
    op.add_column("states", sa.Column("mark", sa.BigInteger()))
    op.add_column("threads", sa.Column("states_deleted_at", sa.DateTime(timezone=True)))
    for statement in (_GUARD.format(unmark=_UNMARK), _TAKE_DOWN, _HANG):
        op.execute(statement)


def downgrade() -> None:
    operations.limit_lock_waits()
    for statement in (_TAKE_DOWN, _HANG_AS_BEFORE, _GUARD.format(unmark="")):
        op.execute(statement)
    op.drop_column("threads", "states_deleted_at")
    op.drop_column("states", "mark")
