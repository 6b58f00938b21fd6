"""Create the table of imports, by which a repeated import finds its threads.

Revision ID: ap0009
Revises: ap0008
Create Date: 2026-11-21 17:05:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from agent_persistence.migrate import operations

revision = "ap0009"
down_revision = "ap0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    operations.limit_lock_waits()
    op.create_table(
        "conversation_imports",
        sa.Column("thread_id", operations.id_type(), nullable=False),
        sa.Column("fields", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("thread_id", name=op.f("pk_conversation_imports")),
        sa.ForeignKeyConstraint(
            ["thread_id"],
            ["threads.thread_id"],
            name=op.f("fk_conversation_imports_thread_id_threads"),
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    operations.limit_lock_waits()
    op.drop_table("conversation_imports")
