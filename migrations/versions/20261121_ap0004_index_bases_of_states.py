"""Index the bases of states that are stored as changes, and validate their constraints.

Revision ID: ap0004
Revises: ap0003
Create Date: 2026-11-21 12:30:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agent_persistence.migrate import operations

revision = "ap0004"
down_revision = "ap0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    operations.limit_lock_waits()
    # Partial: only versions that are stored as changes are indexed.
    operations.create_index_concurrently(
        op.f("ix_states_thread_id_base_id"),
        "states",
        ["thread_id", "base_id"],
        postgresql_where=sa.text("base_id IS NOT NULL"),
    )
    op.execute("ALTER TABLE states VALIDATE CONSTRAINT ck_states_whole_or_patch")
    op.execute("ALTER TABLE states VALIDATE CONSTRAINT fk_states_thread_id_states")


def downgrade() -> None:
    operations.limit_lock_waits()
    op.drop_index(op.f("ix_states_thread_id_base_id"), "states")
