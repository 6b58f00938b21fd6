"""Whatever a caller passes is stored exactly or refused by name, before any SQL, and the unit of work goes on."""

import base64
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.repository_testing import HELLO, SettingsFor, counted_statements

from agent_persistence.encoding.cursors import encode_cursor
from agent_persistence.errors import InvalidInputError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, NewMessage

Call = Callable[..., Awaitable[Any]]
CANARY = "canary-4711"


def nested(levels: int) -> Any:
    value: Any = CANARY
    for _ in range(levels):
        value = [value]
    return value


async def refused(
    store: Persistence[Any, Any], user_id: Any, call: Callable[[UnitOfWork[Any, Any]], Awaitable[Any]]
) -> InvalidInputError:
    """Make the call in a unit of work that goes on after it; the refusal came before any SQL and shows no value."""
    async with store.begin(user_id=user_id) as uow:
        async with counted_statements(store) as statements:
            with pytest.raises(InvalidInputError) as caught:
                await call(uow)
            assert statements == []
        after = await uow.threads.create(name="after")
    assert await store.threads.get(after.thread_id, user_id=user_id) == after
    assert await store.threads.delete(after.thread_id, user_id=user_id)
    assert CANARY not in str(caught.value)
    assert "4711" not in str(caught.value)
    return caught.value


BAD_IDS: dict[str, list[Any]] = {
    "string": [
        "", CANARY + "x" * 250, f"{CANARY}\0", f"{CANARY}\ud800", f"{CANARY}\n", f"{CANARY}\x9f",
        4711, 4711.5, True, None, CANARY.encode(), uuid.UUID(int=4711), [CANARY],
    ],
    "int": [True, 4711.0, "4711", None, 2**31, -(2**31) - 1, Decimal(4711), uuid.UUID(int=4711)],
    "bigint": [False, 4711.5, "4711", None, 2**63, -(2**63) - 1, 10**30],
    "uuid": [str(uuid.UUID(int=4711)), uuid.UUID(int=4711).hex, 4711, None, uuid.UUID(int=4711).bytes, True],
}  # fmt: skip

CALLS_WITH_A_THREAD_ID: dict[str, Call] = {
    "threads.get": lambda uow, bad: uow.threads.get(bad),
    "threads.require": lambda uow, bad: uow.threads.require(bad),
    "threads.update": lambda uow, bad: uow.threads.update(bad, name="x"),
    "threads.archive": lambda uow, bad: uow.threads.archive(bad),
    "threads.unarchive": lambda uow, bad: uow.threads.unarchive(bad),
    "threads.delete": lambda uow, bad: uow.threads.delete(bad),
    "messages.append": lambda uow, bad: uow.messages.append(bad, HELLO),
    "messages.append_many": lambda uow, bad: uow.messages.append_many(bad, [HELLO, HELLO]),
    "messages.append_many of none": lambda uow, bad: uow.messages.append_many(bad, []),
    "messages.page": lambda uow, bad: uow.messages.page(bad),
    "states.put": lambda uow, bad: uow.states.put(bad, {}),
    "states.put over": lambda uow, bad: uow.states.put(bad, {}, expected_version=1),
    "states.get": lambda uow, bad: uow.states.get(bad),
    "states.get fresh": lambda uow, bad: uow.states.get(bad, fresh=True),
    "states.require": lambda uow, bad: uow.states.require(bad),
    "states.get_version": lambda uow, bad: uow.states.get_version(bad, 1),
    "states.page": lambda uow, bad: uow.states.page(bad),
    "states.clear": lambda uow, bad: uow.states.clear(bad),
    "states.prune": lambda uow, bad: uow.states.prune(bad, keep_last=1),
}


@pytest.mark.parametrize("kind", list(BAD_IDS))
async def test_an_id_of_a_thread_that_is_none_is_refused_by_every_call(
    settings_for: SettingsFor, kind: str, user_id: str
) -> None:
    async with Persistence[Any, str](await settings_for(kind)) as store:
        made = await store.messages.append(
            (await store.threads.create(user_id=user_id)).thread_id, HELLO, user_id=user_id
        )
        calls = {
            **CALLS_WITH_A_THREAD_ID,
            "messages.get": lambda uow, bad: uow.messages.get(bad, made.message_id),
            "messages.require": lambda uow, bad: uow.messages.require(bad, made.message_id),
            "messages.update": lambda uow, bad: uow.messages.update(bad, made.message_id, meta={}),
            "messages.delete": lambda uow, bad: uow.messages.delete(bad, made.message_id),
            "messages.pop": lambda uow, bad: uow.messages.pop(bad),
            "messages.clear": lambda uow, bad: uow.messages.clear(bad),
        }
        for name, call in calls.items():
            for bad in BAD_IDS[kind]:
                error = await refused(store, user_id, lambda uow, call=call, bad=bad: call(uow, bad))
                assert error.field == "thread_id", name


@pytest.mark.parametrize("kind", list(BAD_IDS))
async def test_an_id_that_is_none_is_refused_where_one_can_be_given(
    settings_for: SettingsFor, kind: str, user_id: str
) -> None:
    async with Persistence[Any, str](await settings_for(kind)) as store:
        thread_id = (await store.threads.create(user_id=user_id)).thread_id
        calls: dict[str, tuple[Call, str]] = {
            "create": (lambda uow, bad: uow.threads.create(thread_id=bad), "thread_id"),
            "append": (lambda uow, bad: uow.messages.append(thread_id, HELLO, message_id=bad), "message_id"),
            "append_many": (
                lambda uow, bad: uow.messages.append_many(thread_id, [NewMessage(message=HELLO, message_id=bad)]),
                "message_id",
            ),
            "get": (lambda uow, bad: uow.messages.get(thread_id, bad), "message_id"),
            "require": (lambda uow, bad: uow.messages.require(thread_id, bad), "message_id"),
            "update": (lambda uow, bad: uow.messages.update(thread_id, bad, meta={}), "message_id"),
            "delete": (lambda uow, bad: uow.messages.delete(thread_id, bad), "message_id"),
        }
        for name, (call, field) in calls.items():
            for bad in BAD_IDS[kind]:
                if bad is None and name in ("create", "append", "append_many"):
                    continue  # there it asks for a new id
                error = await refused(store, user_id, lambda uow, call=call, bad=bad: call(uow, bad))
                assert error.field == field, name


@pytest.mark.parametrize("kind", list(BAD_IDS))
async def test_an_owner_that_is_none_opens_no_unit_of_work(settings_for: SettingsFor, kind: str) -> None:
    async with Persistence[str, Any](await settings_for("string", kind)) as store:
        for bad in BAD_IDS[kind]:
            with pytest.raises(InvalidInputError, match="^user_id: ") as caught:
                async with store.begin(user_id=bad):
                    pytest.fail("opened")
            assert "4711" not in str(caught.value)
            with pytest.raises(InvalidInputError, match="^user_id: "):
                await store.threads.page(user_id=bad)
            async with store.begin(user_id=ANY_USER) as uow:
                with pytest.raises(InvalidInputError, match="^user_id: "):
                    await uow.threads.create(user_id=bad)


@pytest.mark.parametrize("text", ["x" * 255, "😀" * 255, "a:b/c%d_e\\f'\"", " ", "\uff41", "\u2028"])
async def test_any_other_text_is_an_id(persistence: Persistence[str, str], text: str) -> None:
    thread_id, user_id = f"{text[:200]}{uuid.uuid4()}"[-255:], text
    made = await persistence.threads.create(thread_id=thread_id, user_id=user_id)

    message = await persistence.messages.append(thread_id, HELLO, message_id=text, user_id=user_id)
    state = await persistence.states.put(thread_id, 1, user_id=user_id)

    assert await persistence.threads.get(thread_id, user_id=user_id) == made
    assert await persistence.messages.get(thread_id, text, user_id=user_id) == message
    assert await persistence.states.get(thread_id, user_id=user_id) == state
    assert await persistence.states.get(thread_id, user_id=user_id, fresh=True) == state
    page = await persistence.threads.page(user_id=user_id, limit=1)
    assert made in page
    await persistence.threads.page(user_id=user_id, after=page.after)


@pytest.mark.parametrize("name", [CANARY + "x" * 250, f"{CANARY}\0", f"{CANARY}\ud800", 4711, True, CANARY.encode()])
async def test_a_name_that_does_not_fit_is_refused(persistence: Persistence[str, str], user_id: str, name: Any) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id, name="old")).thread_id

    for call in (lambda uow: uow.threads.create(name=name), lambda uow: uow.threads.update(thread_id, name=name)):
        assert (await refused(persistence, user_id, call)).field == "name"

    assert (await persistence.threads.require(thread_id, user_id=user_id)).name == "old"


@pytest.mark.parametrize("name", ["", "x" * 255, "😀" * 255, "line\r\n\x1b[31m\x01"])
async def test_any_other_name_is_kept(persistence: Persistence[str, str], user_id: str, name: str) -> None:
    made = await persistence.threads.create(user_id=user_id, name=name)

    assert (await persistence.threads.require(made.thread_id, user_id=user_id)).name == name


BAD_JSON: dict[str, tuple[Any, str]] = {
    "NUL": ({"a": [f"{CANARY}\0"]}, ".a[0]"),
    "NUL in a key": ({"a": {f"{CANARY}\0": 1}}, ".a"),
    "surrogate": ({"a": f"{CANARY}\udfff"}, ".a"),
    "surrogate in a key": ({f"{CANARY}\ud800": 1}, ""),
    "NaN": ({"a": {"b": float("nan")}}, ".a.b"),
    "Infinity": ({"a": [1, float("inf")]}, ".a[1]"),
    "int of 65 bits": ({"a": 2**63}, ".a"),
    "huge int": ({"a": 10**5000}, ".a"),
    "bytes": ({"a": CANARY.encode()}, ".a"),
    "datetime": ({"a": datetime.now(UTC)}, ".a"),
    "date": ({"a": date(4711, 1, 1)}, ".a"),
    "Decimal": ({"a": Decimal("4711.0")}, ".a"),
    "UUID": ({"a": uuid.UUID(int=4711)}, ".a"),
    "set": ({"a": {CANARY}}, ".a"),
    "tuple": ({"a": (CANARY, CANARY)}, ".a"),
    "int key": ({"a": {4711: 1}}, ".a"),
    "None key": ({None: 1}, ""),
    "object": ({"a": object()}, ".a"),
    "key that is text": ({f"{CANARY} {CANARY}": float("nan")}, ".<key>"),
    "too deep": ({"a": nested(200)}, ""),
    "far too deep": ({"a": nested(100_000)}, ""),
    "too long": ({"a": "x" * (16 * 2**20)}, ""),
}


@pytest.mark.parametrize(("value", "path"), BAD_JSON.values(), ids=BAD_JSON)
async def test_json_that_would_not_come_back_is_refused_everywhere(
    persistence: Persistence[str, str], user_id: str, value: dict[Any, Any], path: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id, meta={"old": 1})).thread_id
    made = await persistence.messages.append(thread_id, HELLO, user_id=user_id)
    place = (thread_id, made.message_id)
    batch = [HELLO, NewMessage(message=HELLO, usages=value)]
    calls: list[tuple[Callable[[UnitOfWork[str, str]], Awaitable[Any]], str]] = [
        (lambda uow: uow.threads.create(meta=value), "meta"),
        (lambda uow: uow.threads.update(thread_id, meta=value), "meta"),
        (lambda uow: uow.threads.page(meta=value), "meta"),
        (lambda uow: uow.states.put(thread_id, value), "data"),
        (lambda uow: uow.states.put(thread_id, {}, meta=value), "meta"),
        (lambda uow: uow.messages.append(thread_id, NewMessage(message=HELLO, meta=value)), "message.meta"),
        (lambda uow: uow.messages.append_many(thread_id, batch), "messages[1].usages"),
        (lambda uow: uow.messages.append(thread_id, {**HELLO, "tool_calls": value}), "message.tool_calls"),
        (lambda uow: uow.messages.append(thread_id, {**HELLO, "audio": value}), "message.audio"),
        (lambda uow: uow.messages.update(*place, meta=value), "message.meta"),
        (lambda uow: uow.messages.update(*place, usages=value), "message.usages"),
        (lambda uow: uow.messages.update(*place, message={**HELLO, "audio": value}), "message.audio"),
    ]

    for call, field in calls:
        error = await refused(persistence, user_id, call)
        assert error.field == f"{field}{path}" or (not path and error.field == field.removesuffix(".audio"))

    assert (await persistence.threads.require(thread_id, user_id=user_id)).meta == {"old": 1}
    assert (await persistence.messages.page(thread_id, user_id=user_id)).items == (made,)
    assert await persistence.states.get(thread_id, user_id=user_id) is None


@pytest.mark.parametrize("value", [[1], "text", 4711, [("a", 1)], b"{}", True])
async def test_what_is_no_json_object_is_refused_as_meta(
    persistence: Persistence[str, str], user_id: str, value: Any
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    for call, field in (
        (lambda uow: uow.threads.create(meta=value), "meta"),
        (lambda uow: uow.threads.update(thread_id, meta=value), "meta"),
        (lambda uow: uow.threads.page(meta=value), "meta"),
        (lambda uow: uow.states.put(thread_id, 1, meta=value), "meta"),
        (lambda uow: uow.messages.append(thread_id, NewMessage(message=HELLO, usages=value)), "message.usages"),
    ):
        assert (await refused(persistence, user_id, call)).field == field


@pytest.mark.parametrize("value", [{}, MappingProxyType({})])
async def test_a_filter_that_would_match_everything_is_refused(
    persistence: Persistence[str, str], user_id: str, value: Any
) -> None:
    assert (await refused(persistence, user_id, lambda uow: uow.threads.page(meta=value))).field == "meta"


@pytest.mark.parametrize("max_json_bytes", [100])
async def test_json_is_limited_in_bytes_and_text_in_characters(
    settings_for: SettingsFor, user_id: str, max_json_bytes: int
) -> None:
    async with Persistence[str, str](await settings_for(max_json_bytes=max_json_bytes)) as store:
        thread_id = (await store.threads.create(user_id=user_id)).thread_id

        await store.states.put(thread_id, "é" * 49, user_id=user_id)  # with its quotes 100 bytes
        error = await refused(store, user_id, lambda uow: uow.states.put(thread_id, "é" * 49 + "x"))
        assert (error.field, error.reason) == ("data", "takes 101 bytes as JSON, the limit is 100")

        await store.messages.append(thread_id, {"role": "user", "content": "x" * 100}, user_id=user_id)
        for key, field in (("content", "content"), ("reasoning_content", "reasoning")):
            long = {"role": "assistant", key: "x" * 101}
            error = await refused(store, user_id, lambda uow, long=long: uow.messages.append(thread_id, long))
            assert (error.field, error.reason) == (f"message.{field}", "is longer than 100 characters")


async def test_the_greatest_that_is_accepted_comes_back(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    greatest = {"deep": nested(199), "ints": [2**63 - 1, 1 - 2**63], "long": "😀" * (4 * 2**20 - 200)}

    await persistence.states.put(thread_id, greatest, user_id=user_id)

    found = await persistence.states.require(thread_id, user_id=user_id, fresh=True)
    assert found.data == greatest


MESSAGES: dict[str, tuple[Any, str]] = {
    "text": (CANARY, ""),
    "None": (None, ""),
    "pairs": ([("role", "user")], ""),
    "no role": ({"content": CANARY}, ".role"),
    "unknown role": ({"role": CANARY}, ".role"),
    "content of another type": ({"role": "user", "content": 4711}, ".content"),
    "NUL in the content": ({"role": "user", "content": f"{CANARY}\0"}, ".content"),
    "NUL in a part": ({"role": "user", "content": [{"text": f"{CANARY}\0"}]}, ".content"),
    "surrogate in the content": ({"role": "user", "content": f"{CANARY}\ud800"}, ".content"),
    "NUL in the reasoning": ({"role": "user", "reasoning": f"{CANARY}\0"}, ".reasoning"),
    "NUL in the call id": ({"role": "tool", "tool_call_id": f"{CANARY}\0"}, ".tool_call_id"),
    "NUL in a long call id": ({"role": "tool", "tool_call_id": CANARY * 30 + "\0"}, ".tool_call_id"),
    "NaN in the calls": ({"role": "assistant", "tool_calls": [float("nan")]}, ".tool_calls[0]"),
    "NaN in a field of the provider": ({"role": "assistant", "logprobs": {"a": float("nan")}}, ".logprobs.a"),
    "int key": ({"role": "user", 4711: CANARY}, ""),
}


@pytest.mark.parametrize(("message", "path"), MESSAGES.values(), ids=MESSAGES)
async def test_what_is_no_message_is_refused_everywhere(
    persistence: Persistence[str, str], user_id: str, message: Any, path: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    made = await persistence.messages.append(thread_id, HELLO, user_id=user_id)

    for call, field in (
        (lambda uow: uow.messages.append(thread_id, message), "message"),
        (lambda uow: uow.messages.append_many(thread_id, [HELLO, message]), "messages[1]"),
        (lambda uow: uow.messages.update(thread_id, made.message_id, message=message), "message"),
    ):
        error = await refused(persistence, user_id, call)
        assert error.field in (f"{field}{path}", f"{field}{path or '.role'}")

    assert (await persistence.messages.page(thread_id, user_id=user_id)).items == (made,)


@pytest.mark.parametrize("tokens", [-1, 2**31, True, 4711.5, "4711", None])
async def test_a_count_of_tokens_that_is_none_is_refused(
    persistence: Persistence[str, str], user_id: str, tokens: Any
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    made = await persistence.messages.append(thread_id, HELLO, user_id=user_id)
    new: NewMessage[str] = NewMessage(message=HELLO, total_tokens=tokens)

    for call in (
        lambda uow: uow.messages.append(thread_id, new),
        lambda uow: uow.messages.update(thread_id, made.message_id, total_tokens=tokens),
    ):
        assert (await refused(persistence, user_id, call)).field == "message.total_tokens"


@pytest.mark.parametrize("limit", [0, -1, 1001, 10**9, 10**30, True, "5", 5.0, None])
async def test_a_limit_out_of_range_or_of_another_type_is_refused(
    persistence: Persistence[str, str], user_id: str, limit: Any
) -> None:
    for call in (
        lambda uow: uow.threads.page(limit=limit),
        lambda uow: uow.messages.page("t", limit=limit),
        lambda uow: uow.states.page("t", limit=limit),
    ):
        assert (await refused(persistence, user_id, call)).field == "limit"


@pytest.mark.parametrize("search", [f"{CANARY}\0", f"{CANARY}\ud800", 4711, CANARY.encode(), ["a"]])
async def test_a_search_for_what_no_text_holds_is_refused(
    persistence: Persistence[str, str], user_id: str, search: Any
) -> None:
    for call in (lambda uow: uow.threads.page(search=search), lambda uow: uow.messages.page("t", search=search)):
        assert (await refused(persistence, user_id, call)).field == "search"


def raw_cursor(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode()


FORGED = [
    "", "=", "x", "4711", CANARY, "é", "\ud800", "WyJ0aHJlYWRz", "a" * 10_000, 4711, 5.0, True, b"WyJ0", [], {},
    *map(raw_cursor, [None, 4711, "x", [], {}, [4711], [["threads"]], [None, 1]]),
    *map(raw_cursor, [["threads"], ["messages"], ["states"]]),
    *(
        encode_cursor(listing, *position)
        for listing in ("threads", "messages", "states")
        for position in (("x",), (-1,), (2**63,), (None,), (1, 2, 3), (10**18, ""), (10**18, "a\0"), ("1", "a"))
    ),
    encode_cursor("threads", 10**18, "a"), encode_cursor("other", 1),
    raw_cursor(["messages", True]), raw_cursor(["messages", 1.0]), raw_cursor(["states", [1]]),
    raw_cursor(["threads", 1e300, "a"]), raw_cursor(["threads", {}, "a"]),
]  # fmt: skip


@pytest.mark.parametrize("cursor", FORGED, ids=lambda cursor: repr(cursor)[:30])
async def test_a_forged_cursor_is_refused(persistence: Persistence[str, str], user_id: str, cursor: Any) -> None:
    for call, field in (
        (lambda uow: uow.threads.page(after=cursor), "after"),
        (lambda uow: uow.messages.page("t", after=cursor), "after"),
        (lambda uow: uow.messages.page("t", before=cursor), "before"),
        (lambda uow: uow.states.page("t", after=cursor), "after"),
    ):
        error = await refused(persistence, user_id, call)
        assert error.field == field
        assert "is not a cursor of this list" in error.reason


async def test_a_cursor_of_another_list_or_cut_short_is_refused(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    threads = [await any_persistence.threads.create(user_id=any_user) for _ in range(2)]
    thread_id = threads[0].thread_id
    for _ in range(2):
        await any_persistence.messages.append(thread_id, HELLO, user_id=any_user)
        await any_persistence.states.put(thread_id, 1, user_id=any_user)
    calls: dict[str, Call] = {
        "threads": lambda uow, cursor: uow.threads.page(after=cursor),
        "messages": lambda uow, cursor: uow.messages.page(thread_id, after=cursor),
        "states": lambda uow, cursor: uow.states.page(thread_id, after=cursor),
    }
    cursors = {
        "threads": (await any_persistence.threads.page(user_id=any_user, limit=1)).after,
        "messages": (await any_persistence.messages.page(thread_id, user_id=any_user, limit=1)).before,
        "states": (await any_persistence.states.page(thread_id, user_id=any_user, limit=1)).after,
    }

    for listing, call in calls.items():
        for origin, cursor in cursors.items():
            assert cursor is not None
            wrong = [cursor[:-3], cursor[3:]] if origin == listing else [cursor]
            for one in wrong:
                error = await refused(any_persistence, any_user, lambda uow, call=call, one=one: call(uow, one))
                assert error.field == "after"


async def test_a_cursor_of_another_kind_of_id_is_refused(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for("string")) as store:
        for thread_id in (f"x{uuid.uuid4()}", f"y{uuid.uuid4()}"):
            await store.threads.create(thread_id=thread_id, user_id=user_id)
        cursor = (await store.threads.page(user_id=user_id, limit=1)).after

    for kind in ("int", "bigint", "uuid"):
        async with Persistence[Any, str](await settings_for(kind)) as other:
            assert (await refused(other, user_id, lambda uow: uow.threads.page(after=cursor))).field == "after"


@pytest.mark.parametrize("version", [True, "4711", 4711.0, -1, 2**63, 10**30, [4711]])
async def test_a_version_that_is_none_is_refused(
    persistence: Persistence[str, str], user_id: str, version: Any
) -> None:
    for call, field in (
        (lambda uow: uow.states.put("t", 1, expected_version=version), "expected_version"),
        (lambda uow: uow.states.get_version("t", version), "version"),
        (lambda uow: uow.states.get("t", min_version=version), "min_version"),
        (lambda uow: uow.states.require("t", min_version=version), "min_version"),
    ):
        assert (await refused(persistence, user_id, call)).field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"keep_last": 0}, "keep_last"),
        ({"keep_last": -1}, "keep_last"),
        ({"keep_last": True}, "keep_last"),
        ({"keep_last": "4711"}, "keep_last"),
        ({"keep_last": 10**30}, "keep_last"),
        ({"older_than": datetime(4711, 1, 1)}, "older_than"),  # noqa: DTZ001 - the naive time is the subject
        ({"older_than": date(4711, 1, 1)}, "older_than"),
        ({"older_than": "4711-01-01T00:00:00Z"}, "older_than"),
        ({"older_than": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))}, "older_than"),
        ({"older_than": 4711.5}, "older_than"),
        ({"older_than": timedelta(days=-4711)}, "older_than"),
        ({"older_than": timedelta.max}, "older_than"),
    ],
)
async def test_a_bound_of_prune_that_is_none_is_refused(
    persistence: Persistence[str, str], user_id: str, arguments: dict[str, Any], field: str
) -> None:
    error = await refused(persistence, user_id, lambda uow: uow.states.prune("t", **arguments))

    assert error.field == field


async def test_a_replacing_store_keeps_what_can_be_kept(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(sanitize="replace")) as store:
        bad = {"a\0": ["\ud800", float("nan"), float("-inf"), 1.5]}
        good = {"a\ufffd": ["\ufffd", None, None, 1.5]}
        message = MappingProxyType({"role": "user", "content": "a\0b", "audio": bad})

        thread = await store.threads.create(user_id=user_id, name="a\0", meta=bad)
        made = await store.messages.append(thread.thread_id, NewMessage(message=message, meta=bad), user_id=user_id)
        state = await store.states.put(thread.thread_id, bad, meta=bad, user_id=user_id)

        assert (thread.name, thread.meta) == ("a\ufffd", good)
        assert made.message == {"role": "user", "content": "a\ufffdb", "audio": good}
        assert (made.text, made.meta) == ("a\ufffdb", good)
        assert (state.data, state.meta) == (good, good)
        assert await store.threads.get(thread.thread_id, user_id=user_id) == thread
        assert (await store.messages.page(thread.thread_id, user_id=user_id)).items == (made,)
        assert await store.states.get(thread.thread_id, user_id=user_id, fresh=True) == state
        assert (await store.threads.page(user_id=user_id, meta=bad)).items == (thread,)


async def test_a_replacing_store_refuses_what_it_cannot_keep(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(sanitize="replace")) as store:
        for call, field in (
            (lambda uow: uow.threads.create(thread_id="a\0"), "thread_id"),
            (lambda uow: uow.threads.create(name=4711), "name"),
            (lambda uow: uow.threads.create(meta={"a": {CANARY}}), "meta.a"),
            (lambda uow: uow.states.put("t", nested(100_000)), "data"),
            (lambda uow: uow.messages.append("t", {**HELLO, "audio": nested(100_000)}), "message"),
        ):
            assert (await refused(store, user_id, call)).field == field


hostile = st.text(st.sampled_from("%_\\/'\"ab;-$:?{}[]()*. \n\u00e9😀"), max_size=6)


@given(names=st.lists(hostile, min_size=4, max_size=8), searches=st.lists(hostile, min_size=4, max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_hostile_search_finds_exactly_what_contains_it(
    persistence: Persistence[str, str], names: list[str], searches: list[str]
) -> None:
    user_id = str(uuid.uuid4())
    async with persistence.begin(user_id=user_id) as uow:
        threads = [await uow.threads.create(name=name, meta={"name": name}) for name in names]
        thread_id = threads[0].thread_id
        await uow.messages.append_many(thread_id, [{"role": "user", "content": name} for name in names])

        for search in searches + names:
            wanted = sorted(name for name in names if search in name)
            named = await uow.threads.page(search=search)
            messages = await uow.messages.page(thread_id, search=search)
            filtered = await uow.threads.page(meta={"name": search})

            assert sorted(str(one.name) for one in named) == wanted
            assert sorted(one.text for one in messages) == wanted
            assert sorted(str(one.name) for one in filtered) == sorted(name for name in names if name == search)
