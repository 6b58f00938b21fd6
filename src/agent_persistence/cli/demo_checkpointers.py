"""``demo --backend``: shows a checkpointer at work. A second run finds the states of the first."""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from agent_persistence import migrate
from agent_persistence.checkpointer import Capability, Checkpointer
from agent_persistence.cli.event_loop import run_until_terminated
from agent_persistence.cli.output import note, out, visible
from agent_persistence.cli.servers import configured, temporary
from agent_persistence.errors import SettingsError, StateConflictError
from agent_persistence.ids import ID_TYPES, uuid7
from agent_persistence.settings import PersistenceSettings

_STEPS: Final = ({"step": "lookup"}, {"step": "lookup", "order": 7}, {"step": "answer", "order": 7})
_SHOWN: Final = 5
_STAYS: Final = "As long as the server keeps them, another run finds them."
_IS_GONE: Final = "They are in the memory of this process, and go with it."


class Backend(StrEnum):
    """The store of the states."""

    MEMORY = "memory"
    REDIS = "redis"
    POSTGRES = "postgres"
    DYNAMODB = "dynamodb"


_CLASSES: Final = {
    Backend.MEMORY: "agent_persistence.backends.memory:MemoryCheckpointer",
    Backend.REDIS: "agent_persistence.backends.redis:RedisCheckpointer",
    Backend.POSTGRES: "agent_persistence.backends.postgresql:PostgreSQLCheckpointer",
    Backend.DYNAMODB: "agent_persistence.backends.dynamodb:DynamoDBCheckpointer",
}


def demo_checkpointer(backend: Backend, owners: dict[type, Any]) -> dict[str, Any]:
    """Save, load and list states, and show a conflict; print and return what was saved."""
    # Imported by name, so that only this backend needs its extra.
    made: Any = pkgutil.resolve_name(_CLASSES[backend])
    with _settings(backend) as settings:
        user_id = "demo"
        if backend is Backend.POSTGRES:
            user_id = str(owners[settings.id_types.user.python_type])
        return run_until_terminated(_demo(backend, settings, lambda: made.from_settings(settings, user_id=user_id)))


@contextmanager
def _settings(backend: Backend) -> Iterator[PersistenceSettings]:
    settings = PersistenceSettings()
    if backend is Backend.POSTGRES:
        with configured() as addressed:
            yield addressed
    elif backend is Backend.REDIS and settings.redis_url is None:
        note("PERSISTENCE_REDIS_URL is not set: using a server that forgets everything when this ends")
        with temporary(settings) as addressed:
            yield addressed
    else:
        if backend is Backend.DYNAMODB and not (settings.dynamodb_endpoint_url or settings.dynamodb_region):
            raise SettingsError(
                "PERSISTENCE_DYNAMODB_ENDPOINT_URL",
                "is not set; for a server to try it on: pip install 'moto[server]', run moto_server, and set this to "
                "http://127.0.0.1:5000; for AWS set PERSISTENCE_DYNAMODB_REGION instead",
            )
        yield settings


async def _demo(backend: Backend, settings: PersistenceSettings, make: Callable[[], Checkpointer]) -> dict[str, Any]:
    if backend is Backend.POSTGRES:
        await migrate.upgrade(settings)
    async with make() as checkpointer:
        if backend is Backend.DYNAMODB:
            await checkpointer.create_table()  # type: ignore[attr-defined]  # only this backend has tables to create
        earlier = await checkpointer.list_threads()
        out.print(Text(f"\n{_found(len(earlier), has_more=earlier.after is not None)}", style="bold"))
        thread_id = _new_thread_id(backend, settings)
        version = await _work(checkpointer, thread_id)
        await _show_threads(checkpointer)
    survives = Capability.SURVIVES_RESTART in checkpointer.capabilities
    out.print(_STAYS if survives else _IS_GONE)
    return {"backend": backend, "thread_id": thread_id, "version": version, "survives_restart": survives}


def _found(count: int, *, has_more: bool) -> str:
    more = " and more" if has_more else ""
    return f"Earlier runs have left {count}{more} thread{'' if count == 1 else 's'} here"


def _new_thread_id(backend: Backend, settings: PersistenceSettings) -> str:
    numbered = backend is Backend.POSTGRES and ID_TYPES[settings.id_type].python_type is int
    # A thread begins with the first save to its id, so the database draws none. Seconds fit into INTEGER until 2038.
    return str(int(time.time()) if numbered else uuid7())


async def _work(checkpointer: Checkpointer, thread_id: str) -> int:
    out.print(Text(f"\nSaving the states of thread {thread_id}", style="bold"))
    version, read = 0, 0
    for state in _STEPS:
        started = time.perf_counter()
        saved = await checkpointer.save_state(thread_id, state, expected_version=version)
        _timed(started, f"saved version {saved.version}: {state}")
        version, read = saved.version, version
    try:
        await checkpointer.save_state(thread_id, {"step": "too late"}, expected_version=read)
    except StateConflictError as error:
        out.print(Text(f"      refused     {visible(error)}"))
    started = time.perf_counter()
    found = await checkpointer.load_state(thread_id)
    _timed(started, f"loaded {found.state if found else None}")
    return version


async def _show_threads(checkpointer: Checkpointer) -> None:
    out.print(Text("\nThe threads, that of the latest save first", style="bold"))
    page = await checkpointer.list_threads(limit=_SHOWN)
    table = Table("thread", "saved", box=box.SIMPLE_HEAD, pad_edge=False)
    for thread in page:
        table.add_row(visible(thread.thread_id), f"{thread.updated_at.astimezone():%Y-%m-%d %H:%M:%S}")
    out.print(table)


def _timed(started: float, what: str) -> None:
    out.print(Text(f"{(time.perf_counter() - started) * 1000:10.2f} ms  {what}"))
