"""``PersistenceSaver``: what it gives back, to whom, and in which thread and event loop."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import math
import pathlib
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from checkpoints import checkpoint_with, config_of, put, values_of
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Command, Interrupt, Overwrite, Send
from pydantic import BaseModel, RootModel
from sqlalchemy import text

from agent_persistence import (
    ANY_USER,
    CheckpointingDisabledError,
    ClosedError,
    InvalidInputError,
    Persistence,
    SyncInLoopError,
    ThreadExistsError,
    ThreadNotFoundError,
    WrongLoopError,
)
from agent_persistence.ids import uuid7
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.repositories.checkpoints import compression
from agent_persistence.repositories.checkpoints.records import CheckpointQuery
from graphs import letters

STRANGE = "nul \0, half \ud800, \u2028"


def strange_values() -> dict[str, Any]:
    return {
        "text": STRANGE,
        "long": STRANGE * 100,
        "float": -math.inf,
        "key": {STRANGE: [math.inf, {STRANGE: None}]},
        "list": [STRANGE, 2**63, b"\0", HumanMessage(STRANGE, id=STRANGE), [], {}, None, "", -0.0],
        "numbers": [1, 2.5, None, True],
        "none": None,
        "empty": [],
        "bytes": b"\0" * 200,
        "snapshot": _DeltaSnapshot([STRANGE, HumanMessage(STRANGE, id="h"), [], 1]),
        "snapshot of nothing": _DeltaSnapshot([]),
        "snapshot of a number": _DeltaSnapshot([1]),
        "snapshot of a mapping": _DeltaSnapshot({"a": STRANGE}),
    }


async def test_any_value_and_any_metadata_come_back_equal(saver: PersistenceSaver, config: Any) -> None:
    values = strange_values()
    metadata: Any = {"source": "loop", "step": 1, "note": STRANGE, STRANGE: STRANGE}

    stored = await put(saver, config, values, metadata=metadata)
    await saver.aput_writes(stored, list(values.items()), "task", "path")

    found = await saver.aget_tuple(config)
    assert found is not None
    assert found.checkpoint["channel_values"] == values
    types = {name: type(value) for name, value in found.checkpoint["channel_values"].items()}
    assert types == {name: type(value) for name, value in values.items()}
    assert [(channel, value) for _, channel, value in found.pending_writes or ()] == list(values.items())
    assert found.metadata == metadata


async def test_lists_of_large_items_come_back_equal_with_what_lies_beside_them(
    saver: PersistenceSaver, config: Any
) -> None:
    large = ["x" * 50_000, "y", "z" * 150_000, "", *["w" * 9_000] * 20]
    values: dict[str, Any] = {"first": 1, "messages": large, "flag": True, "others": large[::-1], "last": "end"}

    stored = await put(saver, config, values)
    await saver.aput_writes(stored, list(values.items()), "task")
    await saver.aput_writes(stored, [("first", 2), ("messages", ["again"])], "task")  # the task is run once more
    changed = {**values, "messages": [*large[1:], "more"], "others": large[:-7] + large[3:5]}
    await put(saver, stored, changed, versions=dict.fromkeys(values, 2))

    before, after = await saver.aget_tuple(stored), await saver.aget_tuple(config)
    assert before is not None
    assert after is not None
    assert before.checkpoint["channel_values"] == values
    assert [(channel, value) for _, channel, value in before.pending_writes or ()] == list(values.items())
    assert after.checkpoint["channel_values"] == changed


async def test_a_message_that_is_known_is_not_serialised_again(
    saver: PersistenceSaver, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [HumanMessage(letters(100, seed=number), id=str(number)) for number in range(20)]
    stored = await put(saver, config, {"messages": messages})
    serialised: list[Any] = []
    dumps = JsonPlusSerializer.dumps_typed

    def note(serde: JsonPlusSerializer, value: Any) -> Any:
        serialised.append(value)
        return dumps(serde, value)

    monkeypatch.setattr(JsonPlusSerializer, "dumps_typed", note)
    longer = [*messages, HumanMessage("new", id="new")]
    await put(saver, stored, {"messages": longer}, versions={"messages": 2})

    assert [value for value in serialised if isinstance(value, HumanMessage)] == longer[20:]
    assert await values_of(saver, config) == {"messages": longer}


@pytest.mark.parametrize(
    "change",
    [
        lambda message: setattr(message, "content", "other"),
        lambda message: message.additional_kwargs.update(note=True),
        lambda message: message.additional_kwargs.update(number=1.0),
        lambda message: message.additional_kwargs["list"].append(None),
        lambda message: message.additional_kwargs.update(list=("a",)),
        lambda message: message.additional_kwargs.update(bytes=bytearray(b"b")),
        lambda message: setattr(message, "tool_calls", [{"name": "n", "args": {}, "id": "i", "type": "tool_call"}]),
        lambda message: setattr(message, "extra_field", "extra"),
    ],
)
async def test_a_message_that_is_changed_in_place_is_saved_as_it_is_then(
    saver: PersistenceSaver, config: Any, change: Callable[[AIMessage], object]
) -> None:
    given = {"number": 1, "list": ["a"], "bytes": b"b"}
    answer = AIMessage("answer", id="a", additional_kwargs=given)
    messages = [HumanMessage("question", id="q"), answer]
    stored = await put(saver, config, {"messages": messages})

    change(answer)
    await put(saver, stored, {"messages": messages}, versions={"messages": 2})

    found = await values_of(saver, config)
    serde = JsonPlusSerializer()
    assert repr(found) == repr({"messages": [serde.loads_typed(serde.dumps_typed(one)) for one in messages]})


@dataclasses.dataclass(slots=True)
class Note:
    text: str


class Names(RootModel[list[str]]):
    """As pydantic's documentation shows it."""

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # pydantic's own example
        return iter(self.root)

    def __getitem__(self, index: int) -> str:
        return self.root[index]


class Filters(RootModel[dict[str, str]]):
    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # as above
        return iter(self.root)


class Loose(BaseModel, extra="allow"):
    note: str

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError

    def model_copy(self, **_: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    "value",
    [
        Filters({STRANGE: "what?"}),
        Loose(note=STRANGE, other=STRANGE),
        HumanMessage("x", custom=STRANGE),
        Note(STRANGE),
        collections.deque([STRANGE]),
        collections.OrderedDict({STRANGE: 1}),
        pathlib.Path("file\udce9"),
        Send("node", {"text": STRANGE}),
        Command(update={"text": STRANGE}, goto=Send("node", STRANGE)),
        Interrupt({"text": STRANGE}, id="i-1"),
        Overwrite([STRANGE]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_half_characters_come_back_wherever_a_value_has_them(
    saver: PersistenceSaver, config: Any, value: Any
) -> None:
    stored = await put(saver, config, {"value": value, "values": [value]})
    await saver.aput_writes(stored, [("value", value)], "task")

    found = await saver.aget_tuple(config)

    assert found is not None
    assert found.checkpoint["channel_values"] == {"value": value, "values": [value]}
    assert found.pending_writes == [("task", "value", value)]


@dataclasses.dataclass
class Unset:
    """A field of it has no value yet."""

    note: str
    later: str = dataclasses.field(init=False)


class Pickling:
    """A serialiser that takes what LangGraph's does not: values that contain themselves."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return "pickle", pickle.dumps(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return pickle.loads(data[1])  # noqa: S301 - written above


def ring() -> Any:
    items: list[Any] = ["what?", {}]
    items[1]["ring"] = items
    return items


@pytest.mark.parametrize("value", [Names(["what?"]), Loose(note="what?"), Unset("what?"), {"ring": ring()}])
async def test_whatever_a_serialiser_takes_is_saved(
    persistence: Persistence[str, str], user_id: str, config: Any, value: Any
) -> None:
    saver = PersistenceSaver(persistence, user_id=user_id, serde=Pickling())

    await put(saver, config, {"value": value})

    [(_, found)] = (await values_of(saver, config)).items()
    assert type(found) is type(value)


async def test_nan_comes_back_as_nan(saver: PersistenceSaver, config: Any) -> None:
    await put(saver, config, {"score": math.nan, "scores": [math.nan]}, metadata={"score": math.nan})

    found = await saver.aget_tuple(config)

    assert found is not None
    values = found.checkpoint["channel_values"]
    assert [math.isnan(one) for one in (values["score"], values["scores"][0], found.metadata["score"])] == [True] * 3


async def test_a_filter_finds_what_json_can_hold(saver: PersistenceSaver, config: Any) -> None:
    await put(saver, config, {}, metadata={"note": STRANGE, "step": 1, "raw": b"1"})
    await put(saver, config, {}, metadata={"note": "plain", "step": 2})

    found = [one.metadata["step"] async for one in saver.alist(config, filter={"note": STRANGE})]
    both = [one.metadata["step"] async for one in saver.alist(config, filter={"step": 2, "note": "plain"})]

    assert (found, both) == ([1], [2])


@pytest.mark.parametrize("wanted", [b"1", {"raw": [b"1"]}])
async def test_a_filter_that_json_cannot_hold_is_refused(saver: PersistenceSaver, config: Any, wanted: Any) -> None:
    await put(saver, config, {}, metadata={"step": 1})

    with pytest.raises(InvalidInputError, match="filter.raw"):
        [one async for one in saver.alist(config, filter={"step": 1, "raw": wanted})]


async def test_what_config_and_metadata_say_can_be_filtered_by(saver: PersistenceSaver, config: Any) -> None:
    config["metadata"] = {"tenant": "t\0"}
    config["configurable"]["model"] = "m-1"
    await put(saver, config, {}, metadata={"step": 1})

    found = [one.metadata async for one in saver.alist(config, filter={"model": "m-1"})]

    assert found == [{"step": 1, "tenant": "t\0", "model": "m-1"}]


async def test_a_long_list_is_read_page_by_page(saver: PersistenceSaver, config: Any) -> None:
    last = config
    for step in range(45):
        last = await put(saver, last, {"n": step}, metadata={"step": step})

    listed = saver.alist(config)
    first = await anext(listed)
    rest = [one.metadata["step"] async for one in listed]
    limited = [one.metadata["step"] async for one in saver.alist(config, limit=42)]
    before = [one.metadata["step"] async for one in saver.alist(config, before=first.config, limit=2)]

    assert [first.metadata["step"], *rest] == list(reversed(range(45)))
    assert limited == list(reversed(range(3, 45)))
    assert before == [43, 42]


async def test_all_threads_of_an_owner_can_be_listed(saver: PersistenceSaver) -> None:
    configs = [config_of(str(uuid7())) for _ in range(3)]
    for config in configs:
        await put(saver, config, {"n": 1})

    listed = [one.config["configurable"]["thread_id"] async for one in saver.alist(None)]

    assert sorted(listed) == sorted(config["configurable"]["thread_id"] for config in configs)


# --- whose it is ---


@pytest.mark.parametrize("sent", ["", "u-of-a-client", 7])
async def test_a_given_owner_counts_whatever_configs_name(saver: PersistenceSaver, config: Any, sent: Any) -> None:
    """LangGraph's server names the identity of its caller in runs, or an empty text, and nobody in other requests."""
    thread_id, copy_id = config["configurable"]["thread_id"], str(uuid7())
    saved = await put(saver, config_of(thread_id, user_id=sent), {"n": 1})
    await saver.acopy_thread(thread_id, copy_id)

    assert await values_of(saver, config_of(thread_id)) == await values_of(saver, saved) == {"n": 1}
    assert await values_of(saver, config_of(copy_id, user_id=sent)) == {"n": 1}
    await saver.adelete_thread(thread_id)
    assert await values_of(saver, config_of(thread_id, user_id=sent)) is None


@pytest.mark.parametrize(
    ("given", "named"), [("postgresql://app@localhost/app", "a str"), (Persistence, "the class"), (None, "a NoneType")]
)
def test_only_a_store_makes_a_saver(given: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=f"must be a Persistence.*not {named}"):
        PersistenceSaver(given)


@pytest.mark.parametrize(("sent", "reason"), [({"user_id": ""}, "must not be empty"), ({}, "must be given")])
async def test_an_empty_owner_is_none(persistence: Persistence[str, str], sent: Any, reason: str) -> None:
    saver = PersistenceSaver(persistence)
    with pytest.raises(InvalidInputError, match=f"user_id.*{reason}"):
        await put(saver, config_of(str(uuid7()), **sent), {"n": 1})


async def test_what_belongs_to_somebody_else_does_not_exist(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    stored = await put(saver, config, {"messages": ["mine"]}, metadata={"run_id": "r-1"})
    other = saver.for_user("somebody else")
    thread_id = config["configurable"]["thread_id"]

    assert await other.aget_tuple(config) is None
    assert [one async for one in other.alist(config)] == []
    assert [one async for one in other.alist(None)] == []
    assert await other.aget_delta_channel_history(config=stored, channels=["messages"]) == {"messages": {"writes": []}}
    for forger, refusal in (("somebody else", ThreadExistsError), ("a third", ThreadNotFoundError)):
        with pytest.raises(refusal):
            await put(saver.for_user(forger), stored, {"messages": ["forged"]})
        with pytest.raises(refusal):
            await saver.for_user(forger).aput_writes(stored, [("messages", ["forged"])], "task")
    with pytest.raises(ThreadExistsError):
        await put(saver.for_user("a fourth"), config, {"messages": ["forged"]})
    with pytest.raises(ThreadNotFoundError):
        await other.acopy_thread(thread_id, str(uuid7()))
    await other.aprune([thread_id], strategy="delete")
    await other.adelete_for_runs(["r-1"])
    await other.adelete_thread(thread_id)
    assert await values_of(saver, config) == {"messages": ["mine"]}
    assert await values_of(PersistenceSaver(persistence, user_id=ANY_USER), config) == {"messages": ["mine"]}


async def test_each_config_may_say_whose_its_thread_is(persistence: Persistence[str, str]) -> None:
    saver = PersistenceSaver(persistence)
    configs = {user: config_of(str(uuid7()), user_id=user) for user in ("ada", "eve")}
    for user, config in configs.items():
        await put(saver, config, {"name": user})

    found = {user: await saver.aget_tuple(config) for user, config in configs.items()}

    assert {user: one and one.checkpoint["channel_values"] for user, one in found.items()} == {
        user: {"name": user} for user in configs
    }
    assert all(one and one.config["configurable"]["user_id"] == user for user, one in found.items())
    stolen = config_of(configs["ada"]["configurable"]["thread_id"], user_id="eve")
    assert await saver.aget_tuple(stolen) is None
    with pytest.raises(InvalidInputError, match="user_id"):
        await saver.aget_tuple(config_of("t-1"))
    with pytest.raises(InvalidInputError, match="for_user"):
        await saver.adelete_thread("t-1")


async def test_an_archived_thread_goes_on(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    stored = await put(saver, config, {"n": 1})
    archived = await persistence.threads.archive(config["configurable"]["thread_id"], user_id=user_id)

    await put(saver, stored, {"n": 2})

    assert archived.archived
    assert await values_of(saver, config) == {"n": 2}


# --- deleted threads ---


async def test_a_late_write_does_not_bring_a_deleted_thread_back(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    thread_id = config["configurable"]["thread_id"]
    stored = await put(saver, config, {"messages": ["hello"]})
    await saver.aget_tuple(config)
    elsewhere = PersistenceSaver(persistence, user_id=user_id)  # of another process, which knows nothing of the thread

    await saver.adelete_thread(thread_id)

    for late in (saver, elsewhere):
        with pytest.raises(ThreadNotFoundError):
            await put(late, stored, {"messages": ["hello", "late"]})
        with pytest.raises(ThreadNotFoundError):
            await late.aput_writes(stored, [("messages", ["late"])], "task")
    with pytest.raises(ThreadNotFoundError):
        await put(saver, config_of(thread_id, checkpoint_ns="child:1"), {"messages": ["late"]})
    assert await persistence.threads.get(thread_id, user_id=user_id) is None


async def test_a_thread_that_was_deleted_can_be_begun_anew(saver: PersistenceSaver, config: Any) -> None:
    await put(saver, config, {"n": 1})
    await saver.adelete_thread(config["configurable"]["thread_id"])

    assert await saver.aget_tuple(config) is None  # as every run begins
    await put(saver, config, {"n": 2})

    assert await values_of(saver, config) == {"n": 2}


async def test_writes_may_come_before_the_first_checkpoint_of_a_new_thread(
    saver: PersistenceSaver, config: Any
) -> None:
    checkpoint = checkpoint_with({"n": 1})
    assert await saver.aget_tuple(config) is None

    await saver.aput_writes(
        config_of(config["configurable"]["thread_id"], checkpoint_id=checkpoint["id"]), [("n", 2)], "t"
    )
    await saver.aput(config, checkpoint, {}, checkpoint["channel_versions"])

    found = await saver.aget_tuple(config)
    assert found is not None
    assert found.pending_writes == [("t", "n", 2)]


async def test_writing_nothing_says_nothing_of_a_thread(saver: PersistenceSaver, config: Any) -> None:
    await saver.aput_writes(config_of(config["configurable"]["thread_id"], checkpoint_id="c-1"), [], "task")

    await put(saver, config, {"n": 1})

    assert await values_of(saver, config) == {"n": 1}


async def test_a_checkpoint_that_is_its_own_parent_ends_a_walk(saver: PersistenceSaver, config: Any) -> None:
    stored = await put(saver, config, {"n": 1})
    await saver.aput_writes(stored, [("log", "once")], "task")
    again: Any = checkpoint_with({"n": 2}) | {"id": stored["configurable"]["checkpoint_id"]}
    await saver.aput(stored, again, {}, {"n": 2})

    async with asyncio.timeout(5):
        history = await saver.aget_delta_channel_history(config=stored, channels=["log"])

    assert history == {"log": {"writes": [("task", "log", "once")]}}


async def test_deleting_a_thread_deletes_its_messages_too(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    thread_id = config["configurable"]["thread_id"]
    await put(saver, config, {"n": 1})
    await persistence.messages.append(thread_id, {"role": "user", "content": "hi"}, user_id=user_id)

    await saver.adelete_thread(thread_id)

    assert len(await persistence.messages.page(thread_id, user_id=user_id)) == 0


# --- several at once ---


async def test_threads_do_not_wait_for_each_other(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    other = config_of(str(uuid7()))
    stored, elsewhere = await put(saver, config, {"n": 1}), await put(saver, other, {"n": 1})

    async with persistence.begin(user_id=user_id) as uow:
        await uow.session.execute(
            text("SELECT 1 FROM threads WHERE thread_id = :id FOR UPDATE"), {"id": config["configurable"]["thread_id"]}
        )
        waiting = [asyncio.create_task(put(saver, stored, {"n": 2})) for _ in range(20)]
        async with asyncio.timeout(5):
            await asyncio.gather(*(put(saver, elsewhere, {"n": step}) for step in range(10)))
        held = [task.done() for task in waiting]

    await asyncio.gather(*waiting)
    assert held == [False] * 20


async def test_writers_of_one_thread_lose_nothing(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    stored = await put(saver, config, {"messages": []})
    savers = [PersistenceSaver(persistence, user_id=user_id) for _ in range(4)]

    async def write(number: int) -> None:
        mine = savers[number % 4]
        await mine.aput_writes(stored, [("messages", [f"{number}" * 99])], f"task-{number:02}")
        await put(mine, stored, {"messages": [f"{number}" * 99]}, metadata={"n": number})

    await asyncio.gather(*map(write, range(20)))

    children = {
        one.metadata["n"]: one.checkpoint["channel_values"] async for one in saver.alist(config) if one.metadata
    }
    found = await saver.aget_tuple(stored)
    assert children == {number: {"messages": [f"{number}" * 99]} for number in range(20)}
    assert found is not None
    assert found.pending_writes == [(f"task-{number:02}", "messages", [f"{number}" * 99]) for number in range(20)]


# --- in which thread and event loop ---


async def test_a_sync_call_in_its_own_event_loop_says_what_to_do(saver: PersistenceSaver, config: Any) -> None:
    await put(saver, config, {"n": 1})

    with pytest.raises(SyncInLoopError, match="async"):
        saver.get_tuple(config)


async def test_sync_calls_from_other_threads_use_the_open_store(saver: PersistenceSaver, config: Any) -> None:
    await put(saver, config, {"n": 1})

    found = await asyncio.to_thread(saver.get_tuple, config)
    listed = await asyncio.to_thread(lambda: list(saver.list(config)))

    assert found == await saver.aget_tuple(config)
    assert listed == [found]


async def test_async_calls_from_another_event_loop_are_carried_over(saver: PersistenceSaver, config: Any) -> None:
    await put(saver, config, {"n": 1})

    found = await asyncio.to_thread(asyncio.run, values_of(saver, config))

    assert found == {"n": 1}


async def test_every_sync_method_does_what_its_twin_does(
    sync_saver: PersistenceSaver, config: Any, threads: Any
) -> None:
    thread_id = config["configurable"]["thread_id"]

    def use() -> list[Any]:
        checkpoint = checkpoint_with({"messages": ["a"]})
        stored = sync_saver.put(config, checkpoint, {"run_id": "r-1"}, checkpoint["channel_versions"])
        sync_saver.put_writes(stored, [("messages", ["b"])], "task")
        seen: list[Any] = [sync_saver.get(config), sync_saver.get_delta_channel_history(config=stored, channels=["x"])]
        sync_saver.copy_thread(thread_id, f"{thread_id}-copy")
        sync_saver.prune([thread_id])
        seen.append(len(list(sync_saver.list(config_of(f"{thread_id}-copy")))))
        sync_saver.delete_for_runs(["r-1"])
        seen.append(list(sync_saver.list(None)))
        sync_saver.delete_thread(thread_id)
        return seen

    checkpoint, history, copies, left = threads.submit(use).result()

    assert (checkpoint["channel_values"], history, copies, left) == ({"messages": ["a"]}, {"x": {"writes": []}}, 1, [])


async def test_a_closed_saver_and_an_event_loop_that_ended_are_refused(
    settings_for: Any, user_id: str, config: Any, threads: Any
) -> None:
    settings = await settings_for()
    closed = PersistenceSaver(Persistence(settings), user_id=user_id)
    with closed:
        threads.submit(closed.get_tuple, config).result()
    never_opened = PersistenceSaver(Persistence(settings), user_id=user_id)
    never_opened.close()
    store = Persistence(settings)
    ended = PersistenceSaver(store, user_id=user_id)

    async def open_and_leave() -> None:
        async with store:
            pass

    threads.submit(asyncio.run, open_and_leave()).result()

    with pytest.raises((ClosedError, WrongLoopError)):
        threads.submit(closed.get_tuple, config).result()
    with pytest.raises(ClosedError):
        threads.submit(never_opened.get_tuple, config).result()
    with pytest.raises(WrongLoopError):
        threads.submit(ended.get_tuple, config).result()


# --- what is refused ---


@pytest.mark.parametrize(
    ("pair", "thread_id", "refused"),
    [
        (("int", "string"), "-7", False),
        (("bigint", "string"), -7, False),
        (("int", "string"), "07", True),
        (("int", "string"), "order-7", True),
        (("uuid", "string"), "0198f0a5-7c5e-7d2a-9b1e-2f6a4d3c1b00", False),
        (("uuid", "string"), "0198F0A5-7C5E-7D2A-9B1E-2F6A4D3C1B00", True),
        (("string", "string"), "", True),
        (("string", "string"), 7, True),
        (("string", "string"), "nul\0", True),
    ],
)
async def test_a_thread_id_is_one_of_the_databases_kind_or_refused(
    open_store: Any, pair: Any, thread_id: Any, refused: bool
) -> None:
    saver = PersistenceSaver(await open_store(pair), user_id="u-ids")
    if refused:
        with pytest.raises(InvalidInputError, match="thread_id"):
            await saver.aget_tuple(config_of(thread_id))
        return

    await put(saver, config_of(thread_id), {"n": 1})
    found = await saver.aget_tuple(config_of(thread_id))
    await saver.adelete_thread(thread_id)

    assert found is not None
    assert found.config["configurable"]["thread_id"] == thread_id


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"thread_id": None}, "thread_id"),
        ({"checkpoint_ns": "\0"}, "checkpoint_ns"),
        ({"checkpoint_id": 7}, "checkpoint_id"),
    ],
)
async def test_what_a_config_says_wrongly_is_named(
    saver: PersistenceSaver, config: Any, changes: Any, field: str
) -> None:
    config["configurable"].update(changes)

    with pytest.raises(InvalidInputError, match=field):
        await saver.aget_tuple(config)


async def test_other_mistakes_are_named(saver: PersistenceSaver, config: Any) -> None:
    for refused, field in (
        (saver.aprune(["t"], strategy="some"), "strategy"),
        (saver.aput_writes(config, [("n", 1)], "task"), "checkpoint_id"),
        (put(saver, config, {"\0": 1}), "channel"),
        (put(saver, config, {"n": 1}, versions={"n": b"1"}), "channel_versions"),  # type: ignore[dict-item]  # the mistake
        (saver.adelete_for_runs(["\0"]), "run_ids"),
        (saver.aget_tuple({}), "thread_id"),
        (anext(saver.alist(config, before=config_of("t", checkpoint_id="\0"))), "checkpoint_id"),
        (anext(saver.alist(None, before=config_of("t", checkpoint_id=7))), "checkpoint_id"),
    ):
        with pytest.raises(InvalidInputError, match=field):
            await refused


async def test_nothing_is_saved_where_saving_is_turned_off(settings_for: Any, user_id: str, config: Any) -> None:
    async with Persistence(await settings_for(enable_checkpointing=False)) as persistence:
        saver = PersistenceSaver(persistence, user_id=user_id)

        with pytest.raises(CheckpointingDisabledError):
            await put(saver, config, {"n": 1})


# --- serialisers ---


async def test_an_encrypted_value_is_stored_encrypted(
    persistence: Persistence[str, str], user_id: str, config: Any
) -> None:
    class Reversing:
        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "reversed", plaintext[::-1]

        def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
            assert ciphername == "reversed"
            return ciphertext[::-1]

    saver = PersistenceSaver(persistence, user_id=user_id, serde=EncryptedSerializer(Reversing()))
    stored = await put(saver, config, {"messages": ["secret" * 40]})
    await saver.aput_writes(stored, [("messages", ["secret" * 40])], "task")

    assert await values_of(saver, config) == {"messages": ["secret" * 40]}
    [record] = await persistence.checkpoints.page(
        CheckpointQuery(config["configurable"]["thread_id"]), user_id=user_id, limit=1
    )
    assert record.channels["messages"][0] == "msgpack+reversed"


async def test_an_allowlist_makes_another_saver_over_the_same_rows(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    await put(saver, config, {"n": 1})

    own = JsonPlusSerializer(allowed_msgpack_modules=[])
    strict = PersistenceSaver(persistence, user_id=user_id, serde=own).with_allowlist([("checkpoints", "Order")])

    assert type(strict) is PersistenceSaver
    assert await values_of(strict, config) == {"n": 1}


def test_versions_go_on_as_they_began(saver: PersistenceSaver) -> None:
    text_version = saver.get_next_version("00000000000000000000000000000009.0.123", None)

    assert [saver.get_next_version(None, None), saver.get_next_version(41, None)] == [1, 42]
    assert text_version.startswith("00000000000000000000000000000010.")


# --- large states ---


async def test_large_states_are_compressed_and_read_beside_the_event_loop(
    persistence: Persistence[str, str], config: Any, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, packed = NotedReader(), Noted(compression._deflate)  # noqa: SLF001 - the part of a compression that takes long
    saver = PersistenceSaver(persistence, user_id=user_id, serde=reader)
    monkeypatch.setattr(compression, "_deflate", packed)
    messages = [HumanMessage(letters(900, seed=one)) for one in range(400)]
    stored = await put(saver, config, {"messages": messages})
    await saver.aput_writes(stored, [("log", messages)], "task")
    stored = await put(saver, stored, {"text": letters(4_000_000, seed=1)})

    assert len([one async for one in saver.alist(config)]) == 2
    assert await saver.aget_delta_channel_history(config=stored, channels=["log"]) == {
        "log": {"writes": [("task", "log", messages)]}
    }

    large = [thread for thread, content, *_ in packed.calls if len(content) > 64 * 1024]
    assert large
    assert threading.get_ident() not in large
    assert len(reader.threads) > 1200
    assert threading.get_ident() not in reader.threads


class Noted:
    """A function, and in which threads it was called with what."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        self.calls.append((threading.get_ident(), *arguments))
        return self._function(*arguments)


class NotedReader(JsonPlusSerializer):
    """A serialiser that knows in which threads it has read."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        self.threads.append(threading.get_ident())
        return super().loads_typed(data)
