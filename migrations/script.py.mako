"""${message}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports + "\n" if imports else ""}
from agent_persistence.migrate import operations

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

# The previous release runs during this revision and after it: add, but never rename, retype or drop anything that it
# reads. Name no schema here: the search path selects it.


def upgrade() -> None:
    operations.limit_lock_waits()
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    operations.limit_lock_waits()
    ${downgrades if downgrades else "pass"}
