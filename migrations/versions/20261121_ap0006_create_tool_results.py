"""Create the table of tool results, so that a recorded call is not repeated.

Revision ID: ap0006
Revises: ap0005
Create Date: 2026-11-21 15:10:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from agent_persistence.migrate import operations

revision = "ap0006"
down_revision = "ap0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    operations.limit_lock_waits()
    op.create_table(
        "tool_results",
        sa.Column("thread_id", operations.id_type(), nullable=False),
        sa.Column("tool_call_id", sa.String(255), nullable=False),
        sa.Column("result", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("thread_id", "tool_call_id", name=op.f("pk_tool_results")),
        sa.ForeignKeyConstraint(
            ["thread_id"],
            ["threads.thread_id"],
            name=op.f("fk_tool_results_thread_id_threads"),
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    operations.limit_lock_waits()
    op.drop_table("tool_results")
