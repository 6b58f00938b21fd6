"""``prune``: deletes old states and checkpoints, and sweeps abandoned streams."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final

import typer

from agent_persistence.cli.confirmation import confirm
from agent_persistence.cli.event_loop import run_until_terminated
from agent_persistence.cli.options import DryRun, Json, User, Yes
from agent_persistence.cli.output import out, working, write_json
from agent_persistence.cli.servers import configured, on_data, owner
from agent_persistence.persistence import Persistence

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
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Delete old states of threads, and old checkpoints of their graphs. Messages and the latest state always stay.

    It asks first, with the number. A thread that is being written to is skipped. Without --user, streams that did not
    become a state within a day are swept too.

    Example: `agent-persistence prune --keep-last 20 --older-than 30 --dry-run`
    """
    if keep_last is None and older_than is None:
        raise typer.BadParameter("give --keep-last, --older-than or both")
    age = None if older_than is None else timedelta(days=older_than)
    purge = partial(_purge, user, keep_last=keep_last, older_than=age)
    with configured() as settings:
        if dry_run or not yes:
            with working("Counting old states"):
                count = run_until_terminated(on_data(partial(purge, dry_run=True), settings))
            if dry_run:
                _say(count, as_json=as_json, dry_run=True)
                return
            if count:
                confirm(f"delete {count:,} states", yes=yes)
        with working("Deleting old states"):
            deleted = run_until_terminated(on_data(partial(purge, dry_run=False), settings))
    _say(deleted, as_json=as_json, dry_run=False)


async def _purge(user: str | None, persistence: Persistence[Any, Any], **options: Any) -> int:
    return await persistence.purge(user_id=owner(persistence, user), **options)


def _say(count: int, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        write_json({"states": count, "deleted": not dry_run})
    else:
        out.print(f"{'would delete' if dry_run else 'deleted'} {count:,} states")
