"""Create the tables of graphs: checkpoints, and the values of their channels.

Revision ID: ap0005
Revises: ap0004
Create Date: 2026-11-21 16:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from agent_persistence.migrate import operations

revision = "ap0005"
down_revision = "ap0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    operations.limit_lock_waits()
    op.create_table(
        "graph_checkpoints",
        sa.Column("thread_id", operations.id_type(), autoincrement=False, nullable=False),
        sa.Column("checkpoint_ns", _bytewise(), nullable=False),
        sa.Column("checkpoint_id", _bytewise(), nullable=False),
        sa.Column("parent_id", _bytewise()),
        sa.Column("run_id", _bytewise()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), nullable=False),
        sa.Column("exact_metadata", sa.LargeBinary()),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("refs", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["thread_id"],
            ["threads.thread_id"],
            name=op.f("fk_graph_checkpoints_thread_id_threads"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("thread_id", "checkpoint_ns", "checkpoint_id", name=op.f("pk_graph_checkpoints")),
    )
    op.create_index(
        op.f("ix_graph_checkpoints_run_id"),
        "graph_checkpoints",
        ["run_id"],
        postgresql_where=sa.text("run_id IS NOT NULL"),
    )
    op.create_table(
        "graph_values",
        sa.Column("thread_id", operations.id_type(), autoincrement=False, nullable=False),
        sa.Column("checkpoint_ns", _bytewise(), nullable=False),
        sa.Column("value_no", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("checkpoint_id", _bytewise()),
        sa.Column("channel", _bytewise(), nullable=False),
        sa.Column("cells", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["thread_id"], ["threads.thread_id"], name=op.f("fk_graph_values_thread_id_threads"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("thread_id", "checkpoint_ns", "value_no", name=op.f("pk_graph_values")),
    )
    op.create_index(
        op.f("ix_graph_values_checkpoint_id"),
        "graph_values",
        ["checkpoint_id"],
        postgresql_where=sa.text("checkpoint_id IS NOT NULL"),
    )


def downgrade() -> None:
    operations.limit_lock_waits()
    op.drop_table("graph_values")
    op.drop_table("graph_checkpoints")


def _bytewise() -> sa.Text:
    return sa.Text(collation="C")
