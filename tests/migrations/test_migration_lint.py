"""What ``make migration-lint`` says of the shipped history, and of revisions that it is there to stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_persistence import migrate
from migration_lint import SQUAWK, lint
from migration_testing import later_history

pytestmark = pytest.mark.skipif(not SQUAWK.exists(), reason="squawk is missing: pip install 'agent-persistence[lint]'")


def test_the_shipped_history_passes() -> None:
    result = lint(migrate.alembic_ini())

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("hazard", "rule"),
    [
        ("op.create_index('ix_messages_role', 'messages', ['role'])", "require-concurrent-index-creation"),
        ("op.add_column('messages', sa.Column('note', sa.Text(), nullable=False))", "adding-required-field"),
        ("op.alter_column('threads', 'thread_name', type_=sa.Text())", "changing-column-type"),
        ("op.alter_column('threads', 'thread_name', new_column_name='title')", "renaming-column"),
        ("op.drop_column('messages', 'reasoning')", "ban-drop-column"),
        ("op.create_check_constraint('ck_n', 'messages', 'total_tokens >= 0')", "constraint-missing-not-valid"),
        (
            "op.create_index('ix_cache_outbox_thread_id', 'cache_outbox', ['thread_id'])",
            "require-concurrent-index-creation",
        ),
    ],
)
def test_a_revision_that_would_stop_a_database_is_found(tmp_path: Path, hazard: str, rule: str) -> None:
    result = lint(later_history(tmp_path, hazard))

    assert result.returncode == 1
    assert rule in result.stdout


def test_revisions_that_add_beside_the_traffic_pass(tmp_path: Path) -> None:
    ini = later_history(
        tmp_path,
        "op.add_column('messages', sa.Column('note', sa.Text()))",
        "operations.create_index_concurrently('ix_messages_note', 'messages', ['note'])",
    )

    result = lint(ini)

    assert result.returncode == 0, result.stdout
