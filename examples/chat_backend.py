"""The persistence service of a chat backend: ``python chat_backend.py``, with ``PERSISTENCE_DATABASE_URL`` set."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from agent_persistence import MessageRecord, NewMessage, Persistence, PersistenceSettings, StateRecord


@dataclass(frozen=True)
class Chat:
    """One user's conversations; each answer refers to the agent's state at that time."""

    persistence: Persistence[str, str]
    user_id: str

    async def answer(self, thread_id: str, question: str, text: str, state: dict[str, Any]) -> StateRecord[str]:
        """Save a turn in one transaction: the question, the answer, and the state from which the agent resumes."""
        async with self.persistence.begin(user_id=self.user_id) as uow:
            checkpoint = await uow.states.put(thread_id, state)
            answer = {"role": "assistant", "content": text}
            said = NewMessage[str](message=answer, meta={"state_version": checkpoint.version})
            await uow.messages.append_many(thread_id, [{"role": "user", "content": question}, said])
            return checkpoint

    async def history(self, thread_id: str, limit: int = 50) -> Sequence[MessageRecord[str]]:
        """Return the newest messages, in chronological order."""
        return (await self.persistence.messages.page(thread_id, user_id=self.user_id, limit=limit)).items

    async def restore(self, thread_id: str, version: int) -> Any:
        """Save a checkpoint's data as the latest state again; return it, or ``None`` without that version."""
        async with self.persistence.begin(user_id=self.user_id) as uow:
            old = await uow.states.get_version(thread_id, version)
            return None if old is None else (await uow.states.put(thread_id, old.data)).data


async def main() -> None:
    """Save two turns, restore the first checkpoint, and purge old states."""
    async with Persistence[str, str](PersistenceSettings(auto_migrate=True)) as persistence:
        chat = Chat(persistence, user_id="ada")
        thread_id = (await persistence.threads.create(user_id="ada", name="Refund")).thread_id
        await chat.answer(thread_id, "Where is my order?", "On its way.", {"step": "tracked"})
        await chat.answer(thread_id, "I want my money back.", "Done.", {"step": "refunded"})

        messages = await chat.history(thread_id)
        print(*[f"{message.role}: {message.text}" for message in messages], sep="\n")
        print(await chat.restore(thread_id, messages[1].meta["state_version"]))
        print(await persistence.purge(older_than=datetime.now(UTC) - timedelta(days=30)), "old states")


if __name__ == "__main__":
    asyncio.run(main())
