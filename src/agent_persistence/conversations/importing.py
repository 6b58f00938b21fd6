"""Conversations into threads: one transaction each, so that an import that was killed goes on where it stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from sqlalchemy import func, select

from agent_persistence.conversations.conversation import Conversation
from agent_persistence.conversations.reading import IMPORT, message_pages
from agent_persistence.driver_errors import translated
from agent_persistence.errors import ConflictError, CorruptRow, InvalidInput
from agent_persistence.persistence import Persistence
from agent_persistence.unit_of_work import UnitOfWork


class Outcome(StrEnum):
    """What became of a conversation."""

    ADDED = "added"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class ImportedLine:
    """What became of a line.

    Attributes:
        number: its place in the file, counted from 1.
        size_bytes: its length.
        outcome: ``None`` where the line was refused.
        messages: how many messages the conversation has.
        refusal: why it was refused.
    """

    number: int
    size_bytes: int
    outcome: Outcome | None = None
    messages: int = 0
    refusal: str | None = None


async def import_lines(importer: ConversationImporter, lines: Iterable[bytes]) -> AsyncIterator[ImportedLine]:
    """Import JSON Lines one after the other and say what became of each; blank lines are passed over.

    A line that is refused changes nothing and keeps none of the others from being imported.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            conversation = importer.parse(line)
            outcome = await importer.put(conversation)
        except (InvalidInput, ConflictError, CorruptRow) as error:
            yield ImportedLine(number, len(line), refusal=str(error))
        else:
            yield ImportedLine(number, len(line), outcome, len(conversation.messages))


class ConversationImporter:
    """Writes conversations as threads of one owner, with a state at the end of every turn.

    Importing a conversation again changes nothing, or adds what it has gained since. Where the database numbers
    threads, nothing but the owner's list says what was imported: two importers at once would both add.
    """

    def __init__(self, persistence: Persistence[Any, Any], user_id: Any) -> None:
        self._persistence = persistence
        self._user_id: Final = persistence.models.id_types.user.validate(user_id, "user_id")
        self._kind: Final = persistence.models.id_types.id
        self._settings: Final = persistence.settings
        self._numbered: dict[str, Any] | None = None

    def parse(self, line: bytes) -> Conversation:
        """Read a line as the settings have it.

        Raises:
            InvalidInput: it holds no conversation.
        """
        return Conversation.parse(line, replace_unstorable=self._settings.sanitize == "replace")

    async def put(self, conversation: Conversation) -> Outcome:
        """Write a conversation, or what is missing of it.

        Raises:
            InvalidInput: a part of it cannot be stored.
            ConflictError: its thread holds something else, or belongs to somebody else.
            CorruptRow: its thread cannot be read.
        """
        thread_id = await self._thread_id(conversation)
        async with self._persistence.begin(user_id=self._user_id) as uow:
            if thread_id is not None and await self._locked(uow, thread_id):
                return await self._complete(uow, thread_id, conversation)
            thread = await uow.threads.create(
                thread_id=thread_id, name=conversation.name, meta={IMPORT: conversation.fields}
            )
            await self._append(uow, thread.thread_id, conversation)
        if self._numbered is not None:
            self._numbered[conversation.id] = thread.thread_id
        return Outcome.ADDED

    async def _complete(self, uow: UnitOfWork[Any, Any], thread_id: Any, conversation: Conversation) -> Outcome:
        thread = await uow.threads.require(thread_id)
        stored = await _stored_messages(uow, thread_id)
        if stored != conversation.messages[: len(stored)]:
            raise ConflictError(
                f"thread {thread_id!r} is there already and is not the beginning of this conversation; "
                "give the line another id, or delete the thread"
            )
        meta = {**thread.meta, IMPORT: conversation.fields}
        if len(stored) == len(conversation.messages) and meta == thread.meta:
            return Outcome.UNCHANGED
        await uow.threads.update(thread_id, meta=meta)
        await self._append(uow, thread_id, conversation, after=len(stored))
        return Outcome.UPDATED

    async def _append(
        self, uow: UnitOfWork[Any, Any], thread_id: Any, conversation: Conversation, *, after: int = 0
    ) -> None:
        await uow.messages.append_many(thread_id, conversation.messages[after:])
        for turn in conversation.turns():
            if turn.messages > after and self._settings.enable_checkpointing:
                state = {"turn": turn.number, "messages": turn.messages, "last_role": turn.last_role}
                await uow.states.put(thread_id, state)

    async def _locked(self, uow: UnitOfWork[Any, Any], thread_id: Any) -> bool:
        """Say whether the owner has the thread; whoever else completes it waits here, and then finds it complete."""
        thread = self._persistence.models.Thread
        found = select(thread.thread_id).where(thread.thread_id == thread_id, thread.user_id == self._user_id)
        with translated():
            return (await uow.session.execute(found.with_for_update(key_share=True))).one_or_none() is not None

    async def _thread_id(self, conversation: Conversation) -> Any:
        if not self._kind.generated:
            return conversation.thread_id(self._kind)
        if self._numbered is None:
            self._numbered = await self._imported_before()
        return self._numbered.get(conversation.id)

    async def _imported_before(self) -> dict[str, Any]:
        thread = self._persistence.models.Thread
        name = func.jsonb_extract_path_text(thread.meta, IMPORT, "id")
        statement = select(name, thread.thread_id).where(thread.user_id == self._user_id, name.is_not(None))
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
