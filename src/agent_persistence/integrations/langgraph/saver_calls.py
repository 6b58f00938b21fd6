"""The calls of ``PersistenceSaver``, in the event loop of the ``Persistence``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agent_persistence.errors import InvalidInputError
from agent_persistence.ids import IdType
from agent_persistence.integrations.bridge import Bridge
from agent_persistence.integrations.langgraph.addresses import (
    Address,
    address_of,
    checkpoint_id_of,
    owner_of,
    thread_id_of,
)
from agent_persistence.integrations.langgraph.known_threads import KnownThreads
from agent_persistence.integrations.langgraph.mirror import Mirror
from agent_persistence.integrations.langgraph.seen_messages import SeenMessages
from agent_persistence.integrations.langgraph.stored import histories_of, tuples_of
from agent_persistence.integrations.langgraph.surrogates import dump_blob
from agent_persistence.integrations.langgraph.values import (
    dump,
    dump_all,
    filter_of,
    load,
    merged_metadata,
    split_metadata,
)
from agent_persistence.operations.graph_calls import Mirrored
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import UNSET, AnyUser, NewMessage, Unchanged, Unset
from agent_persistence.repositories.checkpoints.changes import Changes
from agent_persistence.repositories.checkpoints.records import (
    CheckpointQuery,
    CheckpointRecord,
    NewChannelValue,
    NewCheckpoint,
    NewWrites,
)
from agent_persistence.validation import check_text

_MESSAGES: Final = "messages"
"""The name of the channel of messages in LangGraph's own states."""
_PAGE: Final = 20
_VERSION_DIGITS: Final = 32
_STRATEGIES: Final = ("keep_latest", "delete")
_STORED_APART: Final = frozenset({"id", "channel_values"})  # of a checkpoint: as columns and as rows of values


class SaverCalls(BaseCheckpointSaver[Any]):
    """The calls of a checkpointer; see ``PersistenceSaver`` for the arguments."""

    def __init__(
        self,
        persistence: Persistence[Any, Any],
        *,
        user_id: Any | AnyUser | None = None,
        serde: SerializerProtocol | None = None,
        mirror: str | Unchanged | None = UNSET,
    ) -> None:
        super().__init__(serde=serde)
        _refuse_other_kind(persistence)
        self._persistence = persistence
        self._id_types = persistence.models.id_types
        self._owner = user_id
        self._mirror = _mirror(mirror, self._id_types.id, self.serde)
        self._bridge = Bridge(persistence)
        self._known = KnownThreads()
        self._seen = SeenMessages()

    async def _get(self, config: RunnableConfig) -> CheckpointTuple | None:
        address = self._address(config)
        query = CheckpointQuery(address.thread_id, address.namespace, address.checkpoint_id)
        found = await self._persistence.checkpoints.one(query, user_id=address.user_id)
        # A thread without checkpoints exists too: a save must be able to tell it from one that was deleted since.
        self._known.note(address.thread, exists=found is not None)
        if found is None or found.record is None:
            return None
        [only] = await tuples_of(self.serde, [found.record], address.echoed)
        return only

    async def _pages(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> AsyncIterator[Sequence[CheckpointTuple]]:
        address = None if config is None else self._address(config)
        query = CheckpointQuery(
            thread_id=None if address is None else address.thread_id,
            checkpoint_ns=None if address is None else address.checkpoint_ns,
            checkpoint_id=None if address is None else address.checkpoint_id,
            before=None if before is None else checkpoint_id_of(before),
            metadata=None if wanted is None else filter_of(wanted),
        )
        owner = self._one_owner() if address is None else address.user_id
        last: CheckpointRecord | None = None
        while limit is None or limit > 0:
            size = _PAGE if limit is None else min(_PAGE, limit)
            found = await self._persistence.checkpoints.page(query, user_id=owner, limit=size, after=last)
            # No empty page is yielded: it would look like the end to the loops over pages.
            if found:
                yield await tuples_of(self.serde, found, None if address is None else address.echoed)
            if len(found) < size:
                return
            limit, last = None if limit is None else limit - size, found[-1]

    async def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        address = self._address(config)
        new = self._new_checkpoint(address, config, checkpoint, metadata, new_versions)
        mirrored = self._mirrored(address, new, checkpoint["channel_values"], new_versions)
        # Values were serialised or copied above, before any await: the running graph may change them.
        await self._persistence.checkpoints.put(new, user_id=address.user_id, mirrored=mirrored)
        self._known.note(address.thread, exists=True)
        return address.config(checkpoint["id"])

    def _mirrored(
        self, address: Address, new: NewCheckpoint, values: Mapping[str, Any], new_versions: ChannelVersions
    ) -> Mirrored | None:
        """Return the messages to write with a checkpoint, in one transaction: both are saved, or none."""
        mirror = self._mirror
        # Only the root graph's messages are the conversation; subgraphs may have channels of the same name.
        if mirror is None or address.namespace:
            return None
        if new.metadata.get("source") == "loop" and new.metadata.get("step", 0) > 0:
            mirror.warn_without(new.versions)
        if mirror.channel not in new_versions:
            return None

        def messages(changes: Changes) -> Sequence[NewMessage[Any]] | None:
            if mirror.channel not in values:
                return None
            indexes = changes.new_indexes(mirror.channel)
            return mirror.messages(new.checkpoint_id, values[mirror.channel], indexes)

        async def write(uow: UnitOfWork[Any, Any], changes: Changes) -> None:
            rows = messages(changes)
            if rows is None:
                written = await self._written_before(uow, new, mirror.channel)
                rows = mirror.messages(new.checkpoint_id, written, None, is_whole=False)
            await mirror.write(uow, address.thread_id, rows)

        return Mirrored(messages, write)

    async def _written_before(self, uow: UnitOfWork[Any, Any], new: NewCheckpoint, channel: str) -> Sequence[Any]:
        """Return the items that a checkpoint adds to a ``DeltaChannel``: tasks wrote them at its parent."""
        if new.parent_id is None:
            return []
        written = await uow.checkpoints.written(new.thread_id, new.checkpoint_ns, new.parent_id, channel)
        loaded = [load(self.serde, one.value) for one in written]
        return [item for one in loaded for item in (one if isinstance(one, list) else [one])]

    def _new_checkpoint(
        self,
        address: Address,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> NewCheckpoint:
        serde, values, versions = self.serde, checkpoint["channel_values"], checkpoint["channel_versions"]
        # A copy names no channel as changed. Versions of two branches can be equal, so all its values count.
        changed = new_versions or versions
        merged = merged_metadata(config, metadata)
        filterable, exact = split_metadata(serde, merged)
        run_id = merged.get("run_id")
        for channel, version in versions.items():
            check_text(channel, "channel")  # PostgreSQL's text holds no NUL and no lone surrogate
            if not isinstance(version, int | float | str):
                raise InvalidInputError("channel_versions", f"must not hold {type(version).__name__}")

        def dumped(name: str) -> NewChannelValue | None:
            if name not in values:
                return None
            return dump(serde, values[name], self._seen, one_by_one=self._is_mirrored(name))

        return NewCheckpoint(
            thread_id=address.thread_id,
            checkpoint_ns=address.namespace,
            checkpoint_id=check_text(checkpoint["id"], "checkpoint.id"),
            parent_id=address.checkpoint_id,
            run_id=check_text(run_id, "run_id") if isinstance(run_id, str) else None,
            metadata=filterable,
            exact_metadata=exact,
            body=dump_blob(serde, {key: part for key, part in checkpoint.items() if key not in _STORED_APART}),
            changed={name: dumped(name) for name in changed},
            versions=versions,
            dump=dumped,
            may_start_thread=self._may_start(address, otherwise=address.checkpoint_id is None),
        )

    def _may_start(self, address: Address, *, otherwise: bool) -> Callable[[], bool]:
        # Asked when the save has its turn: a deletion may come before.
        return partial(self._known.may_start, address.thread, otherwise=otherwise)

    def _is_mirrored(self, channel: str) -> bool:
        # Its items are compared one by one, to find the new messages.
        return self._mirror is not None and self._mirror.channel == channel

    async def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        address = self._address(config)
        if not writes:
            return
        if address.checkpoint_id is None:
            raise InvalidInputError("checkpoint_id", "must be given in config['configurable']")
        dumped = [
            (
                WRITES_IDX_MAP.get(channel, index),
                check_text(channel, "channel"),
                dump_all(self.serde, written, self._seen, one_by_one=self._is_mirrored(channel)),
            )
            for index, (channel, written) in enumerate(writes)
        ]
        new = NewWrites(
            thread_id=address.thread_id,
            checkpoint_ns=address.namespace,
            checkpoint_id=address.checkpoint_id,
            task_id=check_text(task_id, "task_id"),
            task_path=check_text(task_path, "task_path"),
            writes=dumped,
            may_start_thread=self._may_start(address, otherwise=False),
        )
        await self._persistence.checkpoints.put_writes(new, user_id=address.user_id)
        self._known.note(address.thread, exists=True)

    async def _delete_thread(self, thread_id: str) -> None:
        own_id, owner = self._thread_id(thread_id), self._one_owner()

        async def delete() -> None:
            await self._persistence.threads.delete(own_id, user_id=owner)
            # Even if there was none: a run may be in progress that has saved nothing yet.
            self._known.note((owner, own_id), exists=True)

        await self._persistence.checkpoints.after_saves(own_id, delete)

    async def _delete_for_runs(self, run_ids: Sequence[str]) -> None:
        wanted = [check_text(run_id, "run_ids") for run_id in run_ids]
        if wanted:
            await self._persistence.checkpoints.delete_runs(wanted, user_id=self._one_owner())

    async def _copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        source, target = self._thread_id(source_thread_id), self._thread_id(target_thread_id)
        await self._persistence.checkpoints.copy(source, target, user_id=self._one_owner())

    async def _prune(self, thread_ids: Sequence[str], strategy: str) -> None:
        checkpoints, owner = self._persistence.checkpoints, self._one_owner()
        if strategy not in _STRATEGIES:
            raise InvalidInputError("strategy", f"must be one of {', '.join(_STRATEGIES)}")
        prune = checkpoints.delete_all if strategy == "delete" else checkpoints.keep_latest
        for thread_id in thread_ids:
            await prune(self._thread_id(thread_id), user_id=owner)

    async def _history(self, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        address = self._address(config)
        query = CheckpointQuery(address.thread_id, address.namespace, address.checkpoint_id)
        if not channels:
            return {}
        past = await self._persistence.checkpoints.history(query, channels, user_id=address.user_id)
        return await histories_of(self.serde, past)

    def _address(self, config: RunnableConfig) -> Address:
        return address_of(config, self._id_types, self._owner)

    def _thread_id(self, given: Any) -> Any:
        return thread_id_of(given, self._id_types)

    def _one_owner(self) -> Any:
        return owner_of({}, self._id_types, self._owner)


def _mirror(channel: str | Unchanged | None, id_type: IdType[Any], serde: SerializerProtocol) -> Mirror | None:
    """Return what writes messages; without a choice of the application, where a message can be written as it is."""
    if channel is None:
        return None
    if not isinstance(channel, Unset):
        return Mirror(channel, id_type)
    # Another serialiser may encrypt what it writes, or leave something out: then texts have no place beside it.
    is_default = id_type.python_type is not int and type(serde) is JsonPlusSerializer
    return Mirror(_MESSAGES, id_type, is_named=False) if is_default else None


def _refuse_other_kind(persistence: object) -> None:
    # LangGraph's own checkpointers take an address or a connection.
    if not isinstance(persistence, Persistence):
        given = "the class" if persistence is Persistence else f"a {type(persistence).__name__}"
        raise InvalidInputError("persistence", f"must be a Persistence, such as Persistence.from_env(), not {given}")
