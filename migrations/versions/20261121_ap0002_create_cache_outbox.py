"""Create the cache outbox: invalidations that are not yet delivered to Redis.

Revision ID: ap0002
Revises: ap0001
Create Date: 2026-11-21 06:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agent_persistence.migrate import operations

revision = "ap0002"
down_revision = "ap0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    operations.limit_lock_waits()
    op.create_table(
        "cache_outbox",
        sa.Column("outbox_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("thread_id", operations.id_type(), nullable=False),
        sa.Column("user_id", operations.user_id_type(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("outbox_id", name=op.f("pk_cache_outbox")),
    )


def downgrade() -> None:
    operations.limit_lock_waits()
    op.drop_table("cache_outbox")
