"""Allow states to be streamed, and stored in chunks.

Revision ID: ap0007
Revises: ap0006
Create Date: 2026-11-21 16:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agent_persistence.migrate import operations

revision = "ap0007"
down_revision = "ap0006"
branch_labels = None
depends_on = None

# Without their chunks these versions are empty: an earlier release must not read their descriptions as states.
_DROP_STREAMED = "DELETE FROM states WHERE stream_id IS NOT NULL"


def upgrade() -> None:
    operations.limit_lock_waits()
    op.add_column("states", sa.Column("stream_id", sa.BigInteger()))
    op.create_table(
        "state_streams",
        sa.Column("stream_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("thread_id", operations.id_type(), nullable=False),
        sa.Column("state_id", sa.BigInteger()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", name=op.f("pk_state_streams")),
        sa.ForeignKeyConstraint(
            ["thread_id"], ["threads.thread_id"], name=op.f("fk_state_streams_thread_id_threads"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["thread_id", "state_id"],
            ["states.thread_id", "states.state_id"],
            name=op.f("fk_state_streams_thread_id_states"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_state_streams_thread_id_state_id"), "state_streams", ["thread_id", "state_id"])
    op.create_table(
        "state_chunks",
        sa.Column("stream_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "place", name=op.f("pk_state_chunks")),
        sa.ForeignKeyConstraint(
            ["stream_id"],
            ["state_streams.stream_id"],
            name=op.f("fk_state_chunks_stream_id_state_streams"),
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    operations.limit_lock_waits()
    op.drop_table("state_chunks")
    op.drop_table("state_streams")
    op.execute(_DROP_STREAMED)
    op.drop_column("states", "stream_id")
