"""``prune``: deletes old states and sweeps abandoned streams."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final

import typer

from agent_persistence.cli.options import User
from agent_persistence.cli.output import out
from agent_persistence.cli.servers import owner, run_on_data
from agent_persistence.errors import ThreadNotFoundError
from agent_persistence.persistence import Persistence
from agent_persistence.transfer.conversations import threads_by_age

_MOST_DAYS: Final = 36_500


def prune(
    *,
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", min=1, metavar="N", help="How many of a thread's newest states stay.")
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", min=0, max=_MOST_DAYS, metavar="DAYS", help="Delete only states that were saved longer ago."
        ),
    ] = None,
    user: User = None,
) -> None:
    """Delete old states of every thread. The latest state of a thread and its messages are never deleted.

    Without --user, a thread that is being written to is skipped, and streams that did not become a state within a day
    are swept too.
    """
    if keep_last is None and older_than is None:
        raise typer.BadParameter("give --keep-last, --older-than or both")
    saved_before = None if older_than is None else datetime.now(UTC) - timedelta(days=older_than)
    deleted = run_on_data(partial(_prune, user, keep_last, saved_before), changes=True)
    out.print(f"deleted {deleted:,} states")


async def _prune(
    user: str | None, keep_last: int | None, saved_before: datetime | None, persistence: Persistence[Any, Any]
) -> int:
    if user is None:
        return await persistence.purge(keep_last=keep_last, older_than=saved_before)
    deleted = 0
    async for thread in threads_by_age(persistence, owner(persistence, user)):
        # The thread may be deleted since it was listed.
        with suppress(ThreadNotFoundError):
            deleted += await persistence.states.prune(
                thread.thread_id, user_id=thread.user_id, keep_last=keep_last, older_than=saved_before
            )
    return deleted
