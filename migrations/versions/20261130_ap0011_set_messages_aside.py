"""Allow rows between the messages that are none of the conversation.

Revision ID: ap0011
Revises: ap0010
Create Date: 2026-11-30 20:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agent_persistence.migrate import operations

revision = "ap0011"
down_revision = "ap0010"
branch_labels = None
depends_on = None

# An earlier release would read them as messages of the conversation.
_DROP_ASIDES = "DELETE FROM messages WHERE aside IS NOT NULL"


def upgrade() -> None:
    operations.limit_lock_waits()
    op.add_column("messages", sa.Column("aside", sa.String(64)))


def downgrade() -> None:
    operations.limit_lock_waits()
    op.execute(_DROP_ASIDES)
    op.drop_column("messages", "aside")
