"""The states of threads in the table: read, split into parts, and removed."""

from __future__ import annotations

from typing import Any, Final

from agent_persistence.backends.base import is_alive
from agent_persistence.backends.dynamodb.bodies import decode_body
from agent_persistence.backends.dynamodb.items import Item, Keys, State, Thread, part_item, part_prefix, version_key
from agent_persistence.backends.dynamodb.table import Table
from agent_persistence.backends.dynamodb.writes import StateWrite

_ALL: Final = "pk = :pk"
_BETWEEN: Final = "pk = :pk AND sk BETWEEN :first AND :last"
_PARTS: Final = "pk = :pk AND begins_with(sk, :prefix)"


class States:
    """The states of one owner's threads.

    Args:
        table: the table.
        keys: the keys of the owner.
    """

    def __init__(self, table: Table, keys: Keys) -> None:
        self._table = table
        self._keys = keys

    async def get(self, states: str, version: int) -> State | None:
        """Read a state, without its parts; ``None`` if there is none."""
        item = await self._table.get(self._keys.state(states, version))
        return None if item is None else State.of(item)

    async def newest(self, states: str, oldest: int, newest: int, count: int, now: int) -> list[State]:
        """Read so many states of a range of versions, the latest first: without parts and without expired states."""
        found: list[State] = []
        if newest < oldest:
            return found  # DynamoDB refuses BETWEEN with its bounds in the wrong order
        items = self._table.query(
            KeyConditionExpression=_BETWEEN,
            ExpressionAttributeValues=self._range(states, oldest, newest),
            ScanIndexForward=False,
            Limit=count,
        )
        async for item in items:
            state = State.of(item)
            if is_alive(state.expires, now):
                found.append(state)
            if len(found) == count:
                break
        return found

    async def read(self, states: str, state: State) -> Any:
        """Read the parts of a state, if it has any, and decode it.

        Raises:
            ValueError: parts are missing, because the state is being removed, or another program wrote it.
        """
        return await decode_body(await self._joined(states, state) if state.parts else state.body)

    async def put_parts(self, write: StateWrite, thread: Thread) -> None:
        """Write the parts of a large state, unless an earlier attempt has written all of them.

        Readers see them only once the state's item, which is written last, refers to them.
        """
        if not write.parts or (write.is_written and write.written_to == thread.states):
            return
        if write.written_to != thread.states:
            await self.drop_parts(write)  # the thread was deleted and created again since the last attempt
        write.written_to, write.is_written = thread.states, False
        keys = self._keys.parts(thread.states, write.token, len(write.parts))
        await self._table.put_many(
            [part_item(key, part, thread.expires) for key, part in zip(keys, write.parts, strict=True)]
        )
        write.is_written = True

    async def drop_parts(self, write: StateWrite) -> None:
        """Remove the parts of a state that was not saved."""
        if write.written_to is not None:
            await self._table.delete_many(self._keys.parts(write.written_to, write.token, len(write.parts)))
            write.written_to = None

    async def trim(self, states: str, first: int, end: int) -> None:
        """Remove the states with versions from ``first`` to before ``end``."""
        keys: list[Item] = []
        items = self._table.query(
            KeyConditionExpression=_BETWEEN, ExpressionAttributeValues=self._range(states, first, end - 1)
        )
        async for item in items:
            state = State.of(item)
            keys += [self._keys.state(states, state.version), *self._keys.parts(states, state.token, state.parts)]
        await self._table.delete_many(keys)

    async def purge(self, states: str) -> None:
        """Remove all states of a thread, and all parts, those of abandoned saves too."""
        items = self._table.query(
            KeyConditionExpression=_ALL,
            ExpressionAttributeValues={":pk": self._keys.states(states)},
            ProjectionExpression="pk, sk",
        )
        await self._table.delete_many([item async for item in items])

    async def _joined(self, states: str, state: State) -> bytes:
        items = self._table.query(
            KeyConditionExpression=_PARTS,
            ExpressionAttributeValues={":pk": self._keys.states(states), ":prefix": {"S": part_prefix(state.token)}},
        )
        return b"".join([item["body"]["B"] async for item in items])

    def _range(self, states: str, first: int, last: int) -> dict[str, Any]:
        return {":pk": self._keys.states(states), ":first": version_key(first), ":last": version_key(last)}
