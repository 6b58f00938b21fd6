"""The lock on a thread's row, which every writer of its states and messages takes first.

It orders writers: numbers drawn while it is held (versions of states, positions of messages) follow the order of
commits, and a cached state is quarantined before another writer can commit.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select


def select_and_lock(thread: Any, *conditions: Any, skip_locked: bool = False) -> Any:
    """Select id and owner of threads ``FOR NO KEY UPDATE``.

    ``FOR UPDATE`` lost: it would wait for every transaction that inserts a row with a foreign key to the thread.

    Args:
        thread: the mapped class, or its table's columns.
        skip_locked: leave out threads that another transaction has locked, instead of waiting.
    """
    return (
        select(thread.thread_id, thread.user_id)
        .where(*conditions)
        .with_for_update(key_share=True, skip_locked=skip_locked)
    )
