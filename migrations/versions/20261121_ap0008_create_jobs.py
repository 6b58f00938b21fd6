"""Create the table of background jobs, each of which one store runs at a time.

Revision ID: ap0008
Revises: ap0007
Create Date: 2026-11-21 16:15:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agent_persistence.migrate import operations

revision = "ap0008"
down_revision = "ap0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    operations.limit_lock_waits()
    op.create_table(
        "persistence_jobs",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text()),
        sa.Column("held_until", sa.DateTime(timezone=True)),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("removed", sa.BigInteger()),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_persistence_jobs")),
    )


def downgrade() -> None:
    operations.limit_lock_waits()
    op.drop_table("persistence_jobs")
