"""The states of threads: read, cut into parts, and removed."""

from __future__ import annotations

from typing import Any, Final

from agent_persistence.backends.dynamodb.bodies import unpack
from agent_persistence.backends.dynamodb.calls import Table
from agent_persistence.backends.dynamodb.items import Item, Keys, State, Thread, part_item, version_key
from agent_persistence.backends.dynamodb.saving import NewState

_ALL: Final = "pk = :pk"
_BETWEEN: Final = "pk = :pk AND sk BETWEEN :first AND :last"
_PARTS: Final = "pk = :pk AND begins_with(sk, :prefix)"


class States:
    """The states that one owner's threads refer to by a name."""

    def __init__(self, table: Table, keys: Keys) -> None:
        self._table = table
        self._keys = keys

    async def get(self, states: str, version: int) -> State | None:
        """Read a state, without its parts."""
        item = await self._table.get(self._keys.state(states, version))
        return None if item is None else State.of(item)

    async def newest(self, states: str, oldest: int, newest: int, count: int, now: int) -> list[State]:
        """Read some states, the latest first, without their parts, and without those that have expired."""
        found: list[State] = []
        if newest < oldest:
            return found
        items = self._table.query(
            KeyConditionExpression=_BETWEEN,
            ExpressionAttributeValues=self._range(states, oldest, newest),
            ScanIndexForward=False,
            Limit=count,
        )
        async for item in items:
            state = State.of(item)
            if state.lives(now):
                found.append(state)
            if len(found) == count:
                break
        return found

    async def read(self, states: str, state: State) -> Any:
        """Put a state together.

        Raises:
            ValueError: it is not whole: it is being removed, or was written by somebody else.
        """
        return await unpack(await self._joined(states, state) if state.parts else state.body)

    async def put_parts(self, new: NewState, thread: Thread) -> None:
        """Write the parts of a state that one item cannot hold; nobody reads them before something refers to them."""
        if not new.parts or (new.is_written and new.written_to == thread.states):
            return
        if new.written_to != thread.states:
            await self.drop_parts(new)
        new.written_to, new.is_written = thread.states, False
        keys = (self._keys.part(thread.states, new.token, place) for place in range(len(new.parts)))
        await self._table.put_many(
            [part_item(key, part, thread.expires) for key, part in zip(keys, new.parts, strict=True)]
        )
        new.is_written = True

    async def drop_parts(self, new: NewState) -> None:
        """Remove the parts of a state that was not saved."""
        if new.written_to is not None:
            places = range(len(new.parts))
            await self._table.delete_many([self._keys.part(new.written_to, new.token, place) for place in places])
            new.written_to = None

    async def trim(self, states: str, first: int, end: int) -> None:
        """Remove the versions from the first to before the end."""
        keys: list[Item] = []
        items = self._table.query(
            KeyConditionExpression=_BETWEEN, ExpressionAttributeValues=self._range(states, first, end - 1)
        )
        async for item in items:
            state = State.of(item)
            keys.append(self._keys.state(states, state.version))
            keys += [self._keys.part(states, state.token, place) for place in range(state.parts)]
        await self._table.delete_many(keys)

    async def purge(self, states: str) -> None:
        """Remove everything there."""
        items = self._table.query(
            KeyConditionExpression=_ALL,
            ExpressionAttributeValues={":pk": self._keys.states(states)},
            ProjectionExpression="pk, sk",
        )
        await self._table.delete_many([item async for item in items])

    async def _joined(self, states: str, state: State) -> bytes:
        prefix = self._keys.part(states, state.token, 0)["sk"]["S"].removesuffix("00000")
        items = self._table.query(
            KeyConditionExpression=_PARTS,
            ExpressionAttributeValues={":pk": self._keys.states(states), ":prefix": {"S": prefix}},
        )
        return b"".join([item["body"]["B"] async for item in items])

    def _range(self, states: str, first: int, last: int) -> dict[str, Any]:
        return {":pk": self._keys.states(states), ":first": version_key(first), ":last": version_key(last)}
