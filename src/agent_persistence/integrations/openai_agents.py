"""OpenAI Agents SDK: a session whose items are messages of a thread.

session = PersistenceSession("chat-1", persistence=persistence, user_id="u-42")
await Runner.run(agent, "Hello", session=session)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar, cast

from agent_persistence.concurrency.shielding import settled
from agent_persistence.errors import InvalidInputError, MissingExtraError, ThreadNotFoundError
from agent_persistence.forms.form import Found, Item, read, written
from agent_persistence.forms.openai import OpenAIForm, without_last
from agent_persistence.integrations.bridge import in_store
from agent_persistence.integrations.json_values import jsonable
from agent_persistence.integrations.shared_messages import last_items
from agent_persistence.integrations.shared_threads import SharedThread, thread_id_of
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import MessageRecord, NewMessage

try:
    from agents import TResponseInputItem
    from agents.memory import SessionSettings
    from agents.memory.session_settings import resolve_session_limit
except ImportError as error:
    raise MissingExtraError("openai-agents") from error

__all__ = ["PersistenceSession"]

T = TypeVar("T")

_FORM: Final = OpenAIForm()


class PersistenceSession:
    """A session of the OpenAI Agents SDK in your threads: its items are messages that every other framework reads.

    The session begins with its first item. It may be used from several event loops, and by ``Runner.run_sync``.

    Args:
        session_id: the thread; unique among all owners. Where ids are UUIDs, a text that is none becomes one.
        persistence: the store; the one of ``shared_persistence`` if left out, opened from the environment when it is
            first used.
        user_id: the owner.
        session_settings: the SDK's, such as ``SessionSettings(limit=50)``.

    Raises:
        InvalidInputError: ids of the database are numbers; or the session id cannot be an id.
    """

    def __init__(
        self,
        session_id: str,
        *,
        persistence: Persistence[Any, Any] | None = None,
        user_id: Any,
        session_settings: SessionSettings | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings: SessionSettings | None = session_settings or SessionSettings()
        self._persistence = persistence
        self._user_id = user_id
        self._thread = SharedThread()
        if persistence is not None:
            self._thread_id(persistence)  # refused now, not by the first call

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the latest items, the oldest first.

        Args:
            limit: how many at most; the limit of the settings if left out, and all items without one.

        Raises:
            CorruptRowError: a message cannot be read. None is passed by.
        """
        wanted = resolve_session_limit(limit, self.session_settings)
        if wanted == 0:
            return []
        found = await self._call(partial(self._read, wanted=wanted if wanted is not None and wanted > 0 else None))
        return cast("list[TResponseInputItem]", [one.item for one in found])

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items, all or none; the session begins if it is new.

        If the caller is cancelled, the outcome is awaited first.

        Raises:
            InvalidInputError: an item has no JSON form, or is too large.
            ThreadNotFoundError: the thread was deleted since this session found it.
            ThreadExistsError: the thread belongs to another owner.
        """
        if new := _new_messages(items):
            await settled(self._call(partial(self._append, messages=new)))

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the latest item and return it; ``None`` if there is none.

        Of a message of another framework that holds several items, the last one is removed. If the caller is
        cancelled, the outcome is awaited first.

        Raises:
            CorruptRowError: the latest message cannot be read, and stays.
        """
        return cast("TResponseInputItem | None", await settled(self._call(self._pop)))

    async def clear_session(self) -> None:
        """Delete all items. The thread stays, with its name and states.

        If the caller is cancelled, the outcome is awaited first.
        """
        await settled(self._call(self._clear))

    async def _atomic_replace_items(self, items: list[TResponseInputItem]) -> bool:
        """Replace all items in one transaction: the SDK's compaction looks for this method.

        Without it the SDK clears and adds, and a process that dies in between leaves no history.
        """
        if type(self) is not PersistenceSession:
            return False  # a subclass may keep more than its items
        await settled(self._call(partial(self._replace, messages=_new_messages(items))))
        return True

    async def _call(self, work: Callable[[Persistence[Any, Any]], Coroutine[Any, Any, T]]) -> T:
        return await in_store(self._persistence, work)

    def _thread_id(self, persistence: Persistence[Any, Any]) -> Any:
        return thread_id_of(self.session_id, persistence.models.id_types.id, "session_id")

    async def _append(self, persistence: Persistence[Any, Any], *, messages: list[NewMessage[Any]]) -> None:
        thread_id = self._thread_id(persistence)
        await self._thread.append(persistence, thread_id, messages, user_id=self._user_id)

    async def _replace(self, persistence: Persistence[Any, Any], *, messages: list[NewMessage[Any]]) -> None:
        work = partial(_replace_all, thread_id=self._thread_id(persistence), messages=messages)
        await persistence.run(work, user_id=self._user_id)

    async def _read(self, persistence: Persistence[Any, Any], *, wanted: int | None) -> list[Found]:
        read_page = partial(persistence.messages.page, self._thread_id(persistence), user_id=self._user_id)
        return await last_items(_FORM, read_page, wanted)

    async def _pop(self, persistence: Persistence[Any, Any]) -> Item | None:
        work = partial(_pop_last, thread_id=self._thread_id(persistence))
        return await persistence.run(work, user_id=self._user_id)

    async def _clear(self, persistence: Persistence[Any, Any]) -> None:
        await persistence.messages.clear(self._thread_id(persistence), user_id=self._user_id)


async def _replace_all(uow: UnitOfWork[Any, Any], *, thread_id: Any, messages: list[NewMessage[Any]]) -> None:
    await uow.messages.clear(thread_id)
    await uow.messages.append_many(thread_id, messages)


async def _pop_last(uow: UnitOfWork[Any, Any], *, thread_id: Any) -> Item | None:
    try:
        await uow.threads.lock(thread_id)
    except ThreadNotFoundError:
        return None
    before: str | None = None
    while True:
        page = await uow.messages.page(thread_id, limit=1, before=before, asides=_FORM.key)
        if page.corrupt:
            raise page.corrupt[0]
        found = read(_FORM, page.items)
        if found:
            await _remove_last(uow, page.items[0], is_one=len(found) == 1)
            return found[-1].item
        if page.before is None:
            return None
        before = page.before  # a message that says nothing here, such as a part of a kind that the SDK lacks


async def _remove_last(uow: UnitOfWork[Any, Any], record: MessageRecord[Any], *, is_one: bool) -> None:
    if is_one:
        await uow.messages.delete(record.thread_id, record.message_id)
    else:
        await uow.messages.update(record.thread_id, record.message_id, message=without_last(record.message))


def _new_messages(items: list[TResponseInputItem]) -> list[NewMessage[Any]]:
    new: list[NewMessage[Any]] = []
    for index, item in enumerate(items):
        new += written(_FORM, _json_object(item, f"items[{index}]"), f"items[{index}]")
    return new


def _json_object(item: Any, field: str) -> Item:
    value = jsonable(item, field)
    if not isinstance(value, dict):
        raise InvalidInputError(field, f"must be an item of the Responses API, not {type(item).__name__}")
    return value
