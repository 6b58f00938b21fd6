"""``import-agentflow``: copies the tables of Agentflow's or PyAgenity's ``PgCheckpointer``."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

import typer

from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.cli.failures import finish, say_error
from agent_persistence.cli.options import Json
from agent_persistence.cli.output import progress_bar
from agent_persistence.cli.servers import run_on_data
from agent_persistence.persistence import Persistence
from agent_persistence.transfer.agentflow import CopyOutcome, copy_tables


def import_agentflow(
    source: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            envvar="AGENTFLOW_POSTGRES_URI",
            help="The database that the PgCheckpointer wrote to; in the variable, other users do not see its password.",
        ),
    ],
    *,
    schema: Annotated[str, typer.Option(metavar="NAME", help="The schema of its tables.")] = "public",
    as_json: Json = False,
) -> None:
    """Copy threads, messages, states and tool results from the tables of a PgCheckpointer of Agentflow or PyAgenity.

    Each thread is copied in one transaction. Threads that exist here are left unchanged, so the command can be repeated
    after a failure, or to copy newer threads.

    Example: `agent-persistence import-agentflow postgresql://app@db/chat`
    """
    url = DatabaseUrl.parse(source, "URL")
    counts = run_on_data(partial(_copy, url, schema))
    outcomes = [f"{counts[outcome]:,} {outcome}" for outcome in CopyOutcome if counts[outcome]]
    totals = f"{counts['messages']:,} messages, {counts['states']:,} states"
    summary = f"threads: {', '.join(outcomes) or 'none'} ({totals})"
    finish(dict(counts), summary, as_json=as_json, is_complete=not counts[CopyOutcome.REFUSED])


async def _copy(source: DatabaseUrl, schema: str, persistence: Persistence[Any, Any]) -> Counter[str]:
    counts: Counter[str] = Counter({outcome.value: 0 for outcome in CopyOutcome} | {"messages": 0, "states": 0})
    # Closes the connection to the source at once if the loop ends by an error.
    copying = aclosing(copy_tables(source, persistence, schema=schema))
    with progress_bar("Copying", None) as advance:
        async with copying as threads:
            async for thread in threads:
                advance(1)
                counts.update({thread.outcome.value: 1, "messages": thread.messages, "states": thread.states})
                if thread.reason is not None:
                    say_error(f"thread {thread.thread_id!r}: {thread.reason}")
    return counts
