"""Create the users, and tie the threads of agent-persistence to them.

Revision ID: 0001
Revises:
Create Date: 2026-11-21 00:00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Written by ``alembic revision --autogenerate``, but for the index."""
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("token_digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("token_digest", name=op.f("uq_users_token_digest")),
    )
    # Checks every thread while nobody writes. Where there are many, postgresql_not_valid=True, and VALIDATE CONSTRAINT
    # in the next revision.
    op.create_foreign_key(op.f("fk_threads_user_id_users"), "threads", "users", ["user_id"], ["id"], ondelete="CASCADE")
    # Deleting a user looks for their threads, archived ones too, which the index for lists leaves out. By its prefix
    # agent-persistence knows an index that somebody else put on its tables.
    op.create_index("opt_threads_user_id", "threads", ["user_id"])


def downgrade() -> None:
    """Leave agent-persistence's tables as they came."""
    op.drop_index("opt_threads_user_id", "threads")
    op.drop_constraint(op.f("fk_threads_user_id_users"), "threads", type_="foreignkey")
    op.drop_table("users")
