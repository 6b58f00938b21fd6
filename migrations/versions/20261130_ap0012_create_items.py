"""Create the table of items: values of an owner by namespace and key, which belong to no thread.

Revision ID: ap0012
Revises: ap0011
Create Date: 2026-11-30 21:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from agent_persistence.migrate import operations

revision = "ap0012"
down_revision = "ap0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    operations.limit_lock_waits()
    op.create_table(
        "items",
        sa.Column("user_id", operations.user_id_type(), nullable=False),
        sa.Column("namespace", sa.Text(collation="C"), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("value", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("ttl_seconds", sa.Double()),
        sa.PrimaryKeyConstraint("user_id", "namespace", "key", name=op.f("pk_items")),
    )
    op.create_index(
        op.f("ix_items_expires_at"), "items", ["expires_at"], postgresql_where=sa.text("expires_at IS NOT NULL")
    )


def downgrade() -> None:
    operations.limit_lock_waits()
    op.drop_table("items")
