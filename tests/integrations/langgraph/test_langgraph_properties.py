"""Any sequence of channel values, and any deleting and copying of it: what is kept reads back equal."""

from __future__ import annotations

import asyncio
import copy
from itertools import count
from typing import Any

from checkpoints import checkpoint_with, config_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.pregel._utils import get_new_channel_versions

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.encoding.chat_messages import check_shape, to_columns
from agent_persistence.encoding.exact_json import encode_json
from agent_persistence.forms.form import written
from agent_persistence.ids import uuid7
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.integrations.langgraph.message_items import FORM, item_of
from agent_persistence.integrations.langgraph.surrogates import dump_blob, load_blob
from agent_persistence.repositories.checkpoints.compression import compress, compress_delta, decompress, fingerprint
from agent_persistence.repositories.checkpoints.refs import ListRef, Refs, Span, lay_out, read_refs, write_refs
from agent_persistence.repositories.checkpoints.value_rows import StoredItem
from agent_persistence.transfer.langgraph.msgpack import items_of
from graphs import letters

SERDE = JsonPlusSerializer()
CHANNELS = ["messages", "notes", "state", "__start__"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=()), max_size=9),
    st.binary(max_size=90),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
LONG = letters(400, seed=1)
few_items = st.sampled_from(["a", "b" * 80, "c" * 80, LONG, {"id": 1, "text": LONG + "d"}, None, 7])
KINDS = [
    "text",
    "image",
    "image_url",
    "file",
    "audio",
    "tool_use",
    "tool_result",
    "thinking",
    "media",
    "document",
    "base64",
]
lists = st.lists(few_items, max_size=8)

edits = st.tuples(
    st.sampled_from(["append", "insert", "remove", "replace", "set", "keep", "drop"]),
    st.sampled_from(CHANNELS),
    st.integers(0, 8),
    st.one_of(few_items, values),
)
steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 30), st.lists(edits, min_size=1, max_size=3), st.booleans()),
    # Twice as often: what one process saves in a row depends on what it knows of the rows before.
    *[st.tuples(st.just("go_on"), st.integers(0, 5), st.lists(edits, min_size=1, max_size=3), st.booleans())] * 2,
    st.tuples(st.just("restore"), st.integers(0, 30), st.integers(0, 30), st.booleans()),
    st.tuples(
        st.sampled_from(["prune", "retain", "copy", "delete_run"]), st.integers(0, 3), st.just([]), st.just(value=False)
    ),
)


def edited(state: dict[str, Any], change: tuple[str, str, int, Any]) -> None:
    kind, channel, place, item = change
    items = state.get(channel)
    if kind == "set":
        state[channel] = item
    elif kind == "drop":
        state.pop(channel, None)
    elif kind == "keep" or not isinstance(items, list):
        state.setdefault(channel, [item])
    elif kind == "append":
        state[channel] = [*items, item]
    elif kind == "insert":
        state[channel] = [*items[:place], item, *items[place:]]
    else:
        state[channel] = items[:place] + ([item] if kind == "replace" else []) + items[place + 1 :]


class Model:
    """Threads as they should read: for each checkpoint its parent, its values, its versions and its run.

    Several processes save to them in turn, and none knows what the others saved.
    """

    def __init__(self, savers: list[PersistenceSaver], settings: PersistenceSettings) -> None:
        self.settings = settings
        self.savers = savers
        self.saver = savers[0]
        self.salt = str(uuid7())
        self.copied = False
        self.versions = count(1)  # of all branches: versions of two values are never equal
        self.threads: dict[str, dict[str, tuple[dict[str, Any], dict[str, int], str]]] = {str(uuid7()): {}}

    async def go_on(self, choice: int, changes: list[Any], *, writes_first: bool) -> None:
        """Save the next checkpoint after the latest one, in one process mostly."""
        self.saver = self.savers[choice == 0]
        checkpoints = self.threads[next(iter(self.threads))]
        await self.put(0, changes, writes_first=writes_first, parent=max(checkpoints, default=None))

    async def put(self, choice: int, changes: list[Any], *, writes_first: bool, parent: str | None = None) -> None:
        thread_id = list(self.threads)[choice % len(self.threads)]
        checkpoints = self.threads[thread_id]
        parent = parent or (sorted(checkpoints)[choice % len(checkpoints)] if checkpoints else None)
        state, versions, _ = copy.deepcopy(checkpoints[parent]) if parent else ({}, {}, "")
        before = copy.deepcopy(state)
        for change in changes:
            edited(state, change)
        changed = [name for name in CHANNELS if name in state and (name not in before or before[name] != state[name])]
        changed += [name for name in before if name not in state]
        new = {name: next(self.versions) for name in changed}
        versions |= new
        config = config_of(thread_id, checkpoint_id=parent)
        if parent and writes_first:
            tail = [
                (name, state[name][-2:] if isinstance(state[name], list) else state[name])
                for name in changed
                if name in state
            ]
            await self.saver.aput_writes(config, tail, f"task-{choice}", choice % 2 * "~__pregel_pull, __start__")
        checkpoint = checkpoint_with(state, versions)
        run = f"run-{choice % 3}"
        await self.saver.aput(config, checkpoint, {"run_id": run + self.salt}, dict(new))
        checkpoints[checkpoint["id"]] = (state, versions, run)

    async def restore(self, choice: int, other: int, *, names_newer: bool) -> None:
        """Put a copy of one checkpoint on top of any other, as applications do, or beside itself, as LangGraph does."""
        thread_id = list(self.threads)[choice % len(self.threads)]
        checkpoints = self.threads[thread_id]
        if not checkpoints:
            return
        parent, source = sorted(checkpoints)[choice % len(checkpoints)], sorted(checkpoints)[other % len(checkpoints)]
        state, versions, run = copy.deepcopy(checkpoints[source])
        newer = get_new_channel_versions(checkpoints[parent][1], versions) if names_newer else {}
        checkpoint = checkpoint_with(state, versions)
        await self.saver.aput(
            config_of(thread_id, checkpoint_id=parent), checkpoint, {"run_id": run + self.salt}, newer
        )
        checkpoints[checkpoint["id"]] = (state, versions, run)

    async def prune(self, choice: int) -> None:
        thread_id = list(self.threads)[choice % len(self.threads)]
        await self.saver.aprune([thread_id])
        if checkpoints := self.threads[thread_id]:
            self.threads[thread_id] = {max(checkpoints): checkpoints[max(checkpoints)]}

    async def retain(self, choice: int) -> None:
        async with Persistence(self.settings) as persistence:
            await persistence.purge(keep_last=choice + 1)
        for thread_id, checkpoints in self.threads.items():
            self.threads[thread_id] = {key: checkpoints[key] for key in sorted(checkpoints)[-choice - 1 :]}

    async def delete_run(self, choice: int) -> None:
        run = f"run-{choice}"
        await self.saver.adelete_for_runs([run + self.salt])
        for thread_id, checkpoints in self.threads.items():
            self.threads[thread_id] = {key: one for key, one in checkpoints.items() if one[2] != run}

    async def copy(self, choice: int) -> None:
        source = list(self.threads)[choice % len(self.threads)]
        if not self.threads[source] or self.copied:
            return
        self.copied = True
        target = str(uuid7())
        await self.saver.acopy_thread(source, target)
        self.threads[target] = copy.deepcopy(self.threads[source])

    async def check(self) -> None:
        for thread_id, expected in self.threads.items():
            found = {
                one.checkpoint["id"]: one.checkpoint["channel_values"]
                async for one in self.saver.alist({"configurable": {"thread_id": thread_id}})
            }
            assert found == {key: state for key, (state, _, _) in expected.items()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(steps, min_size=3, max_size=16))
def test_every_checkpoint_that_is_kept_reads_back_equal(script: list[Any], plain_settings: PersistenceSettings) -> None:
    async def play() -> None:
        user_id = str(uuid7())
        async with Persistence(plain_settings) as persistence, Persistence(plain_settings) as other:
            model = Model([PersistenceSaver(one, user_id=user_id) for one in (persistence, other)], plain_settings)
            for kind, choice, changes, flag in script:
                model.saver = model.savers[choice % 2]
                if kind in {"put", "go_on"}:
                    await getattr(model, kind)(choice, changes, writes_first=flag)
                elif kind == "restore":
                    await model.restore(choice, changes, names_newer=flag)
                else:
                    await getattr(model, kind)(choice)
            await model.check()

    asyncio.run(play())


@given(st.lists(st.tuples(st.lists(st.sampled_from("abcdef"), max_size=12)), min_size=1, max_size=6))
def test_spans_lead_from_what_is_stored_to_each_version_of_a_list(versions: list[Any]) -> None:
    stored: list[str] = []
    for (wanted,) in versions:
        known = [StoredItem((number, 0), "", 1, print_) for number, print_ in enumerate(stored)]

        layout = lay_out(wanted, known)

        stored += [wanted[place] for place in layout.added]
        spans = layout.spans(known, [(place, 0) for place in range(len(known), len(stored))])
        read = [stored[place] for span in spans for place in range(span.first[0], span.last[0] + 1)]
        assert read == wanted


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_no_span_crosses_a_seam_behind_which_another_process_may_have_added_rows(
    known: list[str], unknown: list[str], wanted: list[str]
) -> None:
    items = [StoredItem((number, 0), "", 1, print_) for number, print_ in enumerate(known, 1)]

    layout = lay_out(wanted, items, seam=len(known))

    stored = [*known, *unknown, *(wanted[place] for place in layout.added)]
    first_new = len(known) + len(unknown) + 1
    spans = layout.spans(items, [(place, 0) for place in range(first_new, len(stored) + 1)])
    assert [stored[place - 1] for span in spans for place in range(span.first[0], span.last[0] + 1)] == wanted


positions = st.tuples(st.integers(0, 2**62), st.integers(0, 2**31))


@given(st.dictionaries(st.text(max_size=5), st.lists(st.builds(Span, positions, positions), max_size=5), max_size=3))
def test_references_come_back_equal(spans: dict[str, list[Span]]) -> None:
    refs = Refs({channel: ListRef(len(found), found) for channel, found in spans.items()}, {}, dict.fromkeys(spans, 2))

    assert read_refs(write_refs(refs)) == refs


@given(st.binary(max_size=400), st.binary(max_size=300), st.booleans())
def test_compressed_bytes_come_back_equal(content: bytes, other: bytes, repeat: bool) -> None:
    base = other + content if repeat else other

    assert decompress(compress(content)) == content
    assert decompress(compress_delta(content, 7, base), {7: base}) == content


@given(values)
def test_any_value_of_plain_python_comes_back_equal(value: Any) -> None:
    assert load_blob(SERDE, dump_blob(SERDE, value)) == value


parts = st.dictionaries(
    st.sampled_from(["type", "text", "source", "url", "id", "data"]), st.sampled_from(KINDS) | values
)


@given(
    st.lists(st.text(max_size=3) | parts, max_size=4),
    st.sampled_from([HumanMessage, AIMessage, SystemMessage]),
    st.dictionaries(st.sampled_from(["reasoning_content", "tool_calls", "refusal", "function_call"]), values),
)
def test_any_message_has_a_chat_completions_shape_with_its_text(content: Any, kind: Any, extras: Any) -> None:
    """Of any parts, also those that a provider's shape forbids."""
    message = kind.model_construct(content=[*content, {"type": "text", "text": "look"}], additional_kwargs=extras)

    rows = written(FORM, item_of(message))

    for row in rows:
        check_shape(row.message)
        encode_json(row.message, "message")
        encode_json(row.meta, "meta")
    assert any("look" in to_columns(row.message).content for row in rows if row.aside is None)


@given(st.lists(values, max_size=20))
def test_a_msgpack_array_is_cut_into_what_it_is_made_of(items: list[Any]) -> None:
    kind, packed = SERDE.dumps_typed(items)

    cut = items_of(packed)

    assert cut is not None
    assert packed.endswith(b"".join(cut))
    assert [SERDE.loads_typed((kind, item)) for item in cut] == SERDE.loads_typed((kind, packed))


def test_a_blob_is_told_from_every_other() -> None:
    assert len({fingerprint(blob) for blob in [("a", b"b"), ("ab", b""), ("a", b"c"), ("", b"ab")]}) == 4
