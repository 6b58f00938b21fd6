"""Imports conversations as threads, whole ones in each transaction; a killed import can be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import chain, dropwhile, takewhile
from typing import Any, Final

from sqlalchemy import any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert

from agent_persistence.database.driver_errors import translated
from agent_persistence.encoding.exact_json import UNDECODABLE
from agent_persistence.errors import ConflictError, CorruptRowError, InvalidInputError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewThread
from agent_persistence.repositories import PreparedThread
from agent_persistence.transfer.conversations.conversation import Conversation
from agent_persistence.transfer.conversations.formats import begins_another_format, refusal_of
from agent_persistence.transfer.conversations.reading import IMPORT, fields_of, message_pages

_BATCH_BYTES: Final = 2 * 1024 * 1024
"""So much of a file is written at once."""
_HEAD_BYTES: Final = 64 * 1024


class Outcome(StrEnum):
    """The result of importing a conversation."""

    ADDED = "added"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class ImportedLine:
    """The result of a line.

    Attributes:
        number: its line number, counted from 1.
        size_bytes: its length.
        outcome: ``None`` if the line was refused.
        messages: the number of messages of the conversation.
        refusal: why it was refused, or ``None``.
    """

    number: int
    size_bytes: int
    outcome: Outcome | None = None
    messages: int = 0
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class ReadLine:
    """A parsed line: its conversation, or why it is refused."""

    number: int
    size_bytes: int
    conversation: Conversation | None = None
    thread: PreparedThread | None = None
    refusal: str | None = None

    def imported(self, outcome: Outcome) -> ImportedLine:
        """Return the result of a written line."""
        messages = len(self.conversation.messages) if self.conversation else 0
        return ImportedLine(self.number, self.size_bytes, outcome, messages)

    def refused(self, reason: object) -> ImportedLine:
        """Return the result of a refused line."""
        return ImportedLine(self.number, self.size_bytes, refusal=str(reason))


async def import_lines(importer: ConversationImporter, lines: Iterable[bytes]) -> AsyncIterator[ImportedLine]:
    """Import JSON Lines in their order, and yield the result of each; blank lines are skipped.

    A refused line changes nothing, and the others are imported. When its result is yielded, the lines before it are in
    the database, and those after it are not.

    Raises:
        InvalidInputError: the lines are not JSON Lines, but a file of another format; the error names it.
    """
    lines = _checked_beginning(lines)
    writing = _Writing(importer)
    try:
        batch: list[ReadLine] = []
        size = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                batch.append(importer.read(number, line))
                size += len(line)
                await asyncio.sleep(0)  # lets the previous batch be written
            if size >= _BATCH_BYTES:
                async for done in writing.told():
                    yield done
                writing.start(batch)
                batch, size = [], 0
        async for done in writing.told():
            yield done
        writing.start(batch)
        async for done in writing.told():
            yield done
    finally:
        await writing.aclose()


def _checked_beginning(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines, unless their beginning is that of another format."""
    rest, head = iter(lines), list[bytes]()
    for line in rest:
        head.append(line)
        if line.strip():
            break
    if head and begins_another_format(head[0], head[-1]):
        size = 0
        for line in rest:
            head.append(line)
            size += len(line)
            if size >= _HEAD_BYTES:  # enough for the keys of the first items
                break
        if reason := refusal_of(b"".join(head)[:_HEAD_BYTES]):
            raise InvalidInputError("FILE", reason)
    return chain(head, rest)


class _Writing:
    """The batch that is written while the next one is parsed."""

    def __init__(self, importer: ConversationImporter) -> None:
        self._importer = importer
        self._batch: list[ReadLine] = []
        self._task: asyncio.Task[list[ImportedLine]] | None = None

    def start(self, batch: list[ReadLine]) -> None:
        self._batch = batch
        self._task = asyncio.create_task(self._importer.put_some(batch)) if batch else None

    async def told(self) -> AsyncIterator[ImportedLine]:
        """Wait for the batch, and yield its results; continue it after each refused line."""
        while self._task is not None:
            done = await self._task
            for result in done:
                yield result
            rest = self._batch[len(done) :]
            # Lines that were refused when they were read cost no query.
            for line in takewhile(_is_refused, rest):
                yield line.refused(line.refusal)
            self.start(list(dropwhile(_is_refused, rest)))

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _is_refused(line: ReadLine) -> bool:
    return line.conversation is None


class ConversationImporter:
    """Writes conversations as threads of one owner, with a state at the end of every turn.

    Importing a conversation again changes nothing, or adds its new messages. Where the database makes ids, only the
    owner's list of threads shows what was imported: two concurrent importers would both add a conversation.
    """

    def __init__(self, persistence: Persistence[Any, Any], user_id: Any) -> None:
        self._persistence = persistence
        self._user_id: Final = persistence.models.id_types.user.validate(user_id, "user_id")
        self._kind: Final = persistence.models.id_types.id
        self._settings: Final = persistence.settings
        self._numbered: dict[str, Any] | None = None

    def parse(self, line: bytes) -> Conversation:
        """Parse a line as the settings say.

        Raises:
            InvalidInputError: it is not a conversation.
        """
        return Conversation.parse(line, replace_unstorable=self._settings.sanitize == "replace")

    def read(self, number: int, line: bytes) -> ReadLine:
        """Parse a line of a file, or keep the reason why it is refused."""
        try:
            conversation = self.parse(line)
            return ReadLine(number, len(line), conversation, self._prepared(conversation))
        except InvalidInputError as error:
            return ReadLine(number, len(line), refusal=str(error))

    async def put_some(self, lines: Sequence[ReadLine]) -> list[ImportedLine]:
        """Write conversations from the first one on, up to one that is refused; return the result of each.

        New ones are written together in one transaction, the others one by one.
        """
        if lines[0].conversation is None:
            return [lines[0].refused(lines[0].refusal)]
        # Only up to the next refused line: those after it are not to be written yet, and are looked for then.
        lines = list(takewhile(lambda line: line.conversation is not None, lines))
        news = await self._are_new(lines)
        alike = [line for line, _ in takewhile(lambda pair: pair[1] is news[0], zip(lines, news, strict=True))]
        if news[0] and await self._put_new(alike):
            return [line.imported(Outcome.ADDED) for line in alike]
        done: list[ImportedLine] = []
        for line in alike:
            done.append(await self._put_one(line))
            if done[-1].refusal is not None:
                break
        return done

    async def _are_new(self, lines: Sequence[ReadLine]) -> list[bool]:
        """Return for each line whether its thread must be created: it does not exist, and no earlier line has it."""
        names = [await self._name(line.conversation) if line.conversation else None for line in lines]
        seen = await self._there([name for name in names if name is not None])
        news = []
        for name in names:
            news.append(name is not None and name not in seen)
            seen.add(name)
        return news

    async def _put_new(self, lines: Sequence[ReadLine]) -> bool:
        """Create threads for conversations; return whether all of them could be created."""
        new = [(line.conversation, line.thread) for line in lines if line.conversation and line.thread]
        try:
            ids = await self._persistence.run(partial(self._add, new), user_id=self._user_id)
        except ConflictError:
            return False  # one by one, the refused one is found
        if self._numbered is not None:
            self._numbered |= {conversation.id: one for (conversation, _), one in zip(new, ids, strict=True)}
        return True

    async def _add(
        self, new: Sequence[tuple[Conversation, PreparedThread]], uow: UnitOfWork[Any, Any]
    ) -> Sequence[Any]:
        ids = await uow.threads.create_many([thread for _, thread in new])
        await self._record(uow, {one: conversation.fields for one, (conversation, _) in zip(ids, new, strict=True)})
        return ids

    async def _record(self, uow: UnitOfWork[Any, Any], fields: Mapping[Any, Any]) -> None:
        """Record the fields of the lines from which these threads come."""
        table = self._persistence.models.side_tables.imports
        new = insert(table)
        statement = new.on_conflict_do_update(
            index_elements=[table.c.thread_id], set_={table.c.fields: new.excluded.fields}
        )
        rows = [{"thread_id": thread_id, "fields": found} for thread_id, found in fields.items()]
        with translated():
            await uow.session.execute(statement, rows)

    async def _put_one(self, line: ReadLine) -> ImportedLine:
        if line.conversation is None:
            return line.refused(line.refusal)
        try:
            return line.imported(await self.put(line.conversation))
        except (InvalidInputError, ConflictError, CorruptRowError) as error:
            return line.refused(error)

    async def put(self, conversation: Conversation) -> Outcome:
        """Write a conversation, or its missing messages.

        Raises:
            InvalidInputError: a part of it cannot be stored.
            ConflictError: its thread holds other messages, or belongs to another owner.
            CorruptRowError: its thread cannot be read.
        """
        thread_id = await self._thread_id(conversation)
        async with self._persistence.begin(user_id=self._user_id) as uow:
            if thread_id is not None and await self._locked(uow, thread_id):
                return await self._complete(uow, thread_id, conversation)
            [made] = await self._add([(conversation, self._prepared(conversation))], uow)
        if self._numbered is not None:
            self._numbered[conversation.id] = made
        return Outcome.ADDED

    def _prepared(self, conversation: Conversation) -> PreparedThread:
        thread: NewThread[Any] = NewThread(
            thread_id=conversation.thread_id(self._kind),
            name=conversation.name,
            meta={IMPORT: conversation.fields},
            messages=conversation.messages,
            states=self._states(conversation),
        )
        return self._persistence.threads.prepare(thread, user_id=self._user_id)

    def _states(self, conversation: Conversation, *, after: int = 0) -> list[dict[str, Any]]:
        """Return a state for each turn that ends after so many messages."""
        if not self._settings.enable_checkpointing:
            return []
        return [
            {"turn": turn.number, "messages": turn.messages, "last_role": turn.last_role}
            for turn in conversation.turns()
            if turn.messages > after
        ]

    async def _complete(self, uow: UnitOfWork[Any, Any], thread_id: Any, conversation: Conversation) -> Outcome:
        stored = await _stored_messages(uow, thread_id)
        if stored != conversation.messages[: len(stored)]:
            raise ConflictError(
                f"thread {thread_id!r} is there already and is not the beginning of this conversation; "
                "give the line another id, or delete the thread"
            )
        same_fields = await self._recorded(uow, thread_id) == conversation.fields
        if len(stored) == len(conversation.messages) and same_fields:
            return Outcome.UNCHANGED
        if not same_fields:
            await self._record(uow, {thread_id: conversation.fields})
        await uow.messages.append_many(thread_id, conversation.messages[len(stored) :])
        for state in self._states(conversation, after=len(stored)):
            await uow.states.put(thread_id, state)
        return Outcome.UPDATED

    async def _recorded(self, uow: UnitOfWork[Any, Any], thread_id: Any) -> dict[str, Any]:
        """Return the fields that an export would write for the thread."""
        imports, thread = self._persistence.models.side_tables.imports, self._persistence.models.Thread
        found = (
            select(imports.c.fields, thread.meta)
            .select_from(thread)
            .outerjoin(imports, imports.c.thread_id == thread.thread_id)
        )
        with translated():
            fields, meta = (await uow.session.execute(found.where(thread.thread_id == thread_id))).one()
        if UNDECODABLE in (fields, meta):
            raise CorruptRowError("threads", thread_id, "meta" if meta is UNDECODABLE else "fields")
        return fields_of(thread_id, fields, meta)

    async def _locked(self, uow: UnitOfWork[Any, Any], thread_id: Any) -> bool:
        """Lock the thread, and return whether the owner has it; a concurrent import of it waits here."""
        thread = self._persistence.models.Thread
        found = select(thread.thread_id).where(thread.thread_id == thread_id, thread.user_id == self._user_id)
        with translated():
            return (await uow.session.execute(found.with_for_update(key_share=True))).one_or_none() is not None

    async def _thread_id(self, conversation: Conversation) -> Any:
        if not self._kind.generated:
            return conversation.thread_id(self._kind)
        return (await self._thread_ids()).get(conversation.id)

    async def _thread_ids(self) -> dict[str, Any]:
        if self._numbered is None:
            self._numbered = await self._imported_before()
        return self._numbered

    async def _name(self, conversation: Conversation) -> Any:
        """Return the key of an import: the thread's id, or the conversation's ``id`` where the database makes ids."""
        return conversation.id if self._kind.generated else await self._thread_id(conversation)

    async def _there(self, names: Sequence[Any]) -> set[Any]:
        """Return which of these threads exist, with any owner."""
        if self._kind.generated:
            numbered = await self._thread_ids()
            return {name for name in names if name in numbered}
        thread = self._persistence.models.Thread
        wanted = bindparam("names", list(names), type_=self._kind.array_type())
        async with self._persistence.begin(user_id=self._user_id) as uow:
            with translated():
                found = await uow.session.execute(select(thread.thread_id).where(thread.thread_id == any_(wanted)))
                return set(found.scalars())

    async def _imported_before(self) -> dict[str, Any]:
        imports, thread = self._persistence.models.side_tables.imports, self._persistence.models.Thread
        name = func.coalesce(
            func.jsonb_extract_path_text(imports.c.fields, "id"),
            # Version 0.1.0 recorded imports here only.
            func.jsonb_extract_path_text(thread.meta, IMPORT, "id"),
        )
        statement = (
            select(name, thread.thread_id)
            .outerjoin(imports, imports.c.thread_id == thread.thread_id)
            .where(thread.user_id == self._user_id, name.is_not(None))
            # A copy of a thread has a copy of its meta; the thread with the record counts.
            .order_by(imports.c.thread_id.is_not(None), thread.thread_id.desc())
        )
        async with self._persistence.begin(user_id=self._user_id) as uow:
            with translated():
                return {row[0]: row[1] for row in await uow.session.execute(statement)}


async def _stored_messages(uow: UnitOfWork[Any, Any], thread_id: Any) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = []
    async for page in message_pages(partial(uow.messages.page, thread_id)):
        if page.corrupt:
            raise page.corrupt[0]
        stored += [record.message for record in page]
    return stored
