"""``threads`` and ``show``: stored threads and messages, for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from agent_persistence.cli.conversation_view import conversation_table
from agent_persistence.cli.options import Json, User
from agent_persistence.cli.output import note, out, visible, write_json
from agent_persistence.cli.servers import owner, run_on_data
from agent_persistence.persistence import Persistence
from agent_persistence.records import MessageRecord, Page, StateRecord, ThreadRecord

Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")]
AnyThread = ThreadRecord[Any, Any]

_MINUTE_WIDTH: Final = len("2026-01-31 23:59")
_OTHER_COLUMNS: Final = 20 + _MINUTE_WIDTH + 6  # some of the name, the time, and the space between columns


def threads(
    *,
    user: User = None,
    limit: Limit = 20,
    search: Annotated[str | None, typer.Option("--search", help="Text that the name must contain.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Those in the archive, instead.")] = False,
    as_json: Json = False,
) -> None:
    """List threads, the most recently active first.

    Example: `agent-persistence threads --user ada --search refund`
    """
    page = run_on_data(partial(_threads, user, limit=limit, search=search, archived=archived))
    if as_json:
        write_json([_thread_as_json(thread) for thread in page])
        return
    out.print(_threads_table(page) if page.items else "no threads")
    _report_corrupt(page)
    if page.after is not None:
        note(f"there are more: --limit {min(10 * limit, 1000)}")


def show(
    thread: Annotated[str, typer.Argument(metavar="THREAD", help="The id of a thread.")],
    *,
    user: User = None,
    limit: Limit = 50,
    full: Annotated[bool, typer.Option("--full", help="Do not cut long messages.")] = False,
    as_json: Json = False,
) -> None:
    """Show a conversation: its newest messages, and its latest state.

    Example: `agent-persistence show first-chat --limit 10`
    """
    record, state, page = run_on_data(partial(_conversation, thread, user, limit))
    if as_json:
        write_json(_conversation_as_json(record, state, page))
        return
    print_conversation(record, state, page, full=full)
    if page.before is not None:
        note(f"there are earlier messages: --limit {min(10 * limit, 1000)}")


def print_conversation(
    thread: AnyThread, state: StateRecord[Any] | None, page: Page[MessageRecord[Any]], *, full: bool = False
) -> None:
    """Print a thread with some of its messages."""
    out.print(Text(visible(thread.thread_id), style="bold"), soft_wrap=True)
    archived = ", archived" if thread.archived else ""
    out.print(Text(f"{visible(thread.name or 'no name')}{archived}"))
    out.print(Text(f"of user {visible(thread.user_id)}, last active {_minute(thread.updated_at)} UTC", style="dim"))
    out.print()
    out.print(conversation_table(page, full=full))
    _report_corrupt(page)
    if state is not None:
        out.print()
        said = f"{state.stream.size:,} bytes, streamed" if state.stream else _json(state.data)
        out.print(Text(f"state {state.version}: {said}", style="dim"), overflow="ellipsis", no_wrap=True)


async def read_conversation(
    persistence: Persistence[Any, Any], thread: AnyThread, limit: int
) -> tuple[StateRecord[Any] | None, Page[MessageRecord[Any]]]:
    """Read a thread's latest state and its newest messages."""
    state = await persistence.states.get(thread.thread_id, user_id=thread.user_id)
    return state, await persistence.messages.page(thread.thread_id, user_id=thread.user_id, limit=limit)


async def _threads(user: str | None, persistence: Persistence[Any, Any], **filters: Any) -> Page[AnyThread]:
    return await persistence.threads.page(user_id=owner(persistence, user), **filters)


async def _conversation(
    thread: str, user: str | None, limit: int, persistence: Persistence[Any, Any]
) -> tuple[AnyThread, StateRecord[Any] | None, Page[MessageRecord[Any]]]:
    thread_id = persistence.models.id_types.id.parse(thread, "THREAD")
    record = await persistence.threads.require(thread_id, user_id=owner(persistence, user))
    return record, *await read_conversation(persistence, record, limit)


def _threads_table(page: Page[AnyThread]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    several_owners = len({thread.user_id for thread in page}) > 1
    widths = [_widest(thread.thread_id for thread in page), _widest(thread.user_id for thread in page)]
    # Two UUIDs leave no room for a name in 80 columns: then the owner stands below the thread.
    stacked = several_owners and sum(widths) > out.width - _OTHER_COLUMNS
    # The name gives way where the terminal is narrow: an id that is cut cannot be copied.
    table.add_column(
        "thread and user" if stacked else "thread", min_width=max(widths) if stacked else widths[0], overflow="fold"
    )
    if several_owners and not stacked:
        table.add_column("user", overflow="fold")
    table.add_column("name", ratio=1)
    table.add_column("last active (UTC)", no_wrap=True, min_width=_MINUTE_WIDTH)
    for thread in page:
        ids = [Text(visible(thread.thread_id))]
        if stacked:
            ids[0].append(f"\n{visible(thread.user_id)}", style="dim")
        elif several_owners:
            ids.append(Text(visible(thread.user_id)))
        name = Text(visible(thread.name or "").replace("\n", " "), no_wrap=True, overflow="ellipsis")
        table.add_row(*ids, name, _minute(thread.updated_at))
    return table


def _widest(ids: Iterable[Any]) -> int:
    return max(len(str(id_)) for id_ in ids)


def _report_corrupt(page: Page[Any]) -> None:
    for error in page.corrupt:
        note(f"left out: {error}")


def _json(value: Any) -> str:
    return visible(json.dumps(value, ensure_ascii=False))


def _minute(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def _thread_as_json(thread: AnyThread) -> dict[str, Any]:
    return {
        "thread_id": thread.thread_id,
        "user_id": thread.user_id,
        "name": thread.name,
        "meta": thread.meta,
        "archived_at": thread.archived_at,
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
    }


def _conversation_as_json(
    thread: AnyThread, state: StateRecord[Any] | None, page: Page[MessageRecord[Any]]
) -> dict[str, Any]:
    return {
        "thread": _thread_as_json(thread),
        "state": None if state is None else {"version": state.version, "data": state.data, "meta": state.meta},
        "messages": [
            {"message_id": record.message_id, "seq": record.seq, "message": record.message} for record in page
        ],
    }
