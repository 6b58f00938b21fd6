"""The outbox of cache invalidations that were not delivered to Redis."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, extract, func, insert, select

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.models import Models
from agent_persistence.records import TouchedState
from agent_persistence.repositories.locks import new_rows
from agent_persistence.sessions.scope import Scope

ROWS_A_BATCH: Final = 100


@lru_cache(MODELS_AT_ONCE)
def add_to_outbox(models: Models[Any, Any]) -> CompiledStatement:
    """Add the states of ``thread_ids`` and ``owners``."""
    outbox, rows = models.side_tables.outbox, new_rows(models, {})
    values = select(rows.c.thread_id, rows.c.owner)
    return CompiledStatement(
        insert(outbox)
        .from_select(["thread_id", "user_id"], values, include_defaults=False)
        .returning(outbox.c.outbox_id)
    )


class TakenRows(NamedTuple):
    """Rows that were taken from the outbox.

    Attributes:
        states: the states to invalidate.
        ages: how long each row has waited, in seconds.
    """

    states: frozenset[TouchedState]
    ages: list[float]


async def take_from_outbox(scope: Scope[Any, Any]) -> TakenRows:
    """Delete the oldest rows of the outbox and return their states; roll back if they cannot be delivered.

    Concurrent callers take different rows.
    """
    outbox = scope.models.side_tables.outbox
    oldest = select(outbox.c.outbox_id).order_by(outbox.c.outbox_id).limit(ROWS_A_BATCH)
    # SKIP LOCKED lets several processes sweep at once; without it they would wait for one another's deliveries to
    # Redis.
    batch = oldest.with_for_update(skip_locked=True).cte("batch")
    taken = delete(outbox).where(outbox.c.outbox_id == batch.c.outbox_id)
    # By the clock of the database, which has dated the rows.
    age = extract("epoch", func.clock_timestamp() - outbox.c.created_at)
    rows = (await scope.execute(taken.returning(outbox.c.thread_id, outbox.c.user_id, age.label("age")))).all()
    states = frozenset(TouchedState(row.thread_id, row.user_id) for row in rows)
    return TakenRows(states, [float(row.age) for row in rows])
