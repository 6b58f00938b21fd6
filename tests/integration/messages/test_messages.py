import time
from typing import Any

import pytest

from agent_persistence.errors import (
    IdempotencyConflictError,
    InvalidInputError,
    MessageNotFoundError,
    ThreadNotFoundError,
)
from agent_persistence.persistence import Persistence
from agent_persistence.records import MessageRecord, MessageRole, NewMessage, Page

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None}


def said(text: object) -> dict[str, Any]:
    return {"role": "user", "content": str(text)}


async def new_thread(store: Persistence[Any, Any], user_id: Any) -> Any:
    return (await store.threads.create(user_id=user_id)).thread_id


async def contents(store: Persistence[Any, Any], thread_id: Any, user_id: Any) -> list[Any]:
    return [one.content for one in await store.messages.page(thread_id, user_id=user_id, limit=1000)]


async def test_a_message_comes_back_as_it_was_given(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    thread_id, message_id = await new_thread(any_persistence, any_user), any_ids.message()
    usages = {"prompt_tokens": 7, "cost": 0.1}

    async with any_persistence.begin(user_id=any_user) as uow:
        new: NewMessage[Any] = NewMessage(message=ASKED, total_tokens=9, usages=usages, meta={"model": "m"})
        made = await uow.messages.append(thread_id, new, message_id=message_id)
    found = await any_persistence.messages.require(thread_id, message_id, user_id=any_user)

    assert found == made
    assert (found.thread_id, found.message_id, found.role) == (thread_id, message_id, MessageRole.ASSISTANT)
    assert (found.message, found.text, found.content) == (ASKED, "", None)
    assert (found.tool_calls, found.tool_call_id) == ([CALL], None)
    assert (found.total_tokens, found.usages, found.meta) == (9, usages, {"model": "m"})
    assert found.created_at == found.updated_at
    assert found.created_at.tzinfo is not None


async def test_a_message_without_an_id_gets_one(any_persistence: Persistence[Any, Any], any_user: Any) -> None:
    thread_id = await new_thread(any_persistence, any_user)

    made = [await any_persistence.messages.append(thread_id, said("same"), user_id=any_user) for _ in range(2)]

    ids = [one.message_id for one in made]
    assert all(isinstance(one, any_persistence.models.id_types.id.python_type) for one in ids)
    assert ids == sorted(set(ids))
    assert await contents(any_persistence, thread_id, any_user) == ["same", "same"]


async def test_many_messages_go_in_at_once_in_their_order(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    thread_id = await new_thread(any_persistence, any_user)
    given = [any_ids.message() if place % 3 else None for place in range(60)]
    batch = [NewMessage(message=said(place), message_id=message_id) for place, message_id in enumerate(given)]

    made = await any_persistence.messages.append_many(thread_id, batch, user_id=any_user)

    page = await any_persistence.messages.page(thread_id, user_id=any_user, limit=60)
    assert page.items == made
    assert [one.text for one in made] == [str(place) for place in range(60)]
    assert [one.seq for one in made] == sorted({one.seq for one in made})
    assert all(wanted in (None, found.message_id) for wanted, found in zip(given, made, strict=True))


async def test_no_messages_are_appended_by_an_empty_batch(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = await new_thread(persistence, user_id)

    assert await persistence.messages.append_many(thread_id, [], user_id=user_id) == ()
    assert await contents(persistence, thread_id, user_id) == []


async def test_messages_of_one_transaction_keep_the_order_of_the_calls(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)

    async with persistence.begin(user_id=user_id) as uow:
        await uow.messages.append(thread_id, said(0))
        await uow.messages.append_many(thread_id, [said(1), said(2)])
        await uow.messages.append(thread_id, said(3))

    assert await contents(persistence, thread_id, user_id) == ["0", "1", "2", "3"]


async def test_the_same_append_again_changes_nothing(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    thread_id = await new_thread(any_persistence, any_user)
    batch = [NewMessage(message=said(place), message_id=any_ids.message()) for place in range(3)]
    messages = any_persistence.messages

    first = await messages.append_many(thread_id, batch[:2], user_id=any_user)
    again = await messages.append_many(thread_id, batch, user_id=any_user)
    once_more = await messages.append(thread_id, said(1), message_id=batch[1].message_id, user_id=any_user)

    assert again[:2] == first
    assert once_more == first[1]
    assert await contents(any_persistence, thread_id, any_user) == ["0", "1", "2"]


async def test_the_same_id_with_other_content_is_a_conflict_and_nothing_of_the_batch_stays(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    thread_id, taken = await new_thread(any_persistence, any_user), any_ids.message()
    await any_persistence.messages.append(thread_id, said("first"), message_id=taken, user_id=any_user)
    batch = [
        NewMessage(message=said("new"), message_id=any_ids.message()),
        said("without an id"),
        NewMessage(message=said("other content"), message_id=taken),
        said("last"),
    ]

    async with any_persistence.begin(user_id=any_user) as uow:
        await uow.messages.append(thread_id, said("before"))
        with pytest.raises(IdempotencyConflictError) as caught:
            await uow.messages.append_many(thread_id, batch)
        await uow.messages.append(thread_id, said("after"))

    assert (caught.value.thread_id, caught.value.message_id) == (thread_id, taken)
    assert await contents(any_persistence, thread_id, any_user) == ["first", "before", "after"]


async def test_an_id_belongs_to_its_thread_alone(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    threads = [await new_thread(any_persistence, any_user) for _ in range(2)]
    message_id = any_ids.message()

    for thread_id in threads:
        await any_persistence.messages.append(thread_id, said(thread_id), message_id=message_id, user_id=any_user)

    for thread_id in threads:
        found = await any_persistence.messages.require(thread_id, message_id, user_id=any_user)
        assert found.text == str(thread_id)


async def test_an_id_given_twice_in_a_batch_is_refused(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = await new_thread(persistence, user_id)
    batch = [NewMessage(message=said("a"), message_id="m"), NewMessage(message=said("a"), message_id="m")]

    with pytest.raises(InvalidInputError) as caught:
        await persistence.messages.append_many(thread_id, batch, user_id=user_id)

    assert caught.value.field == "messages[1].message_id"
    assert await contents(persistence, thread_id, user_id) == []


async def test_what_is_not_there_is_none_false_or_an_error(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    thread_id, absent = await new_thread(any_persistence, any_user), any_ids.thread()
    message_id = any_ids.message()

    async with any_persistence.begin(user_id=any_user) as uow:
        for place in (absent, thread_id):
            assert await uow.messages.get(place, message_id) is None
            assert await uow.messages.delete(place, message_id) is False
            with pytest.raises(MessageNotFoundError) as caught:
                await uow.messages.require(place, message_id)
            assert (caught.value.thread_id, caught.value.message_id) == (place, message_id)
            with pytest.raises(MessageNotFoundError):
                await uow.messages.update(place, message_id, meta={})
            assert len(await uow.messages.page(place)) == 0
        for call in (uow.messages.append(absent, said(1)), uow.messages.append_many(absent, [said(1)])):
            with pytest.raises(ThreadNotFoundError) as not_found:
                await call
            assert not_found.value.thread_id == absent


async def test_reading_back_and_forth_shows_each_message_once_in_order(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    thread_id = await new_thread(any_persistence, any_user)
    made = await any_persistence.messages.append_many(thread_id, [said(i) for i in range(7)], user_id=any_user)

    async def read(**around: Any) -> Page[MessageRecord[Any]]:
        return await any_persistence.messages.page(thread_id, user_id=any_user, limit=3, **around)

    newest = await read()
    middle = await read(before=newest.before)
    oldest = await read(before=middle.before)
    assert (*oldest, *middle, *newest) == made
    assert (len(oldest), oldest.before) == (1, None)

    middle_again = await read(after=oldest.after)
    newest_again = await read(after=middle_again.after)
    assert (*middle_again, *newest_again) == made[1:]
    assert await read(before=middle_again.before) == oldest

    nothing_yet = await read(after=newest_again.after)
    assert (nothing_yet.items, nothing_yet.before) == ((), None)
    more = await any_persistence.messages.append(thread_id, said("more"), user_id=any_user)
    assert (await read(after=nothing_yet.after)).items == (more,)


async def test_an_empty_thread_can_be_followed_from_its_beginning(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)
    empty = await persistence.messages.page(thread_id, user_id=user_id)
    made = await persistence.messages.append_many(thread_id, [said(1), said(2)], user_id=user_id)

    followed = await persistence.messages.page(thread_id, user_id=user_id, after=empty.after)

    assert (empty.items, empty.before) == ((), None)
    assert followed.items == made


async def test_one_direction_at_a_time(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = await new_thread(persistence, user_id)
    cursor = (await persistence.messages.page(thread_id, user_id=user_id)).after

    with pytest.raises(InvalidInputError, match="^after: cannot be given together with before"):
        await persistence.messages.page(thread_id, user_id=user_id, before=cursor, after=cursor)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("100%", ["100% sure"]),
        ("_", ["a_b"]),
        ("c\\d", ["c\\d"]),
        ("/", ["e/f"]),
        ("SURE", ["100% sure"]),
        ("'", ["it's"]),
        ("second part", ["first part\nsecond part"]),
        ("", ["100% sure", "a_b", "axb", "c\\d", "e/f", "it's", "first part\nsecond part"]),
    ],
)
async def test_a_search_finds_the_text_itself_whatever_its_case(
    persistence: Persistence[str, str], user_id: str, search: str, found: list[str]
) -> None:
    thread_id = await new_thread(persistence, user_id)
    parts = {"role": "user", "content": [{"type": "text", "text": "first part"}, {"text": "second part"}]}
    texts = [said(text) for text in ("100% sure", "a_b", "axb", "c\\d", "e/f", "it's")]
    await persistence.messages.append_many(thread_id, [*texts, parts], user_id=user_id)

    page = await persistence.messages.page(thread_id, user_id=user_id, search=search)

    assert [one.text for one in page] == found


async def test_a_search_text_that_no_time_limit_could_stop_is_refused(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)

    with pytest.raises(InvalidInputError, match="^search: is longer than 255 characters"):
        await persistence.messages.page(thread_id, user_id=user_id, search="a" * 255 + "b")
    with pytest.raises(InvalidInputError, match="^search: is longer than 255 characters"):
        await persistence.threads.page(user_id=user_id, search="a" * 256)


async def test_the_worst_search_in_a_large_message_ends_within_the_time_limit_of_a_statement(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)
    await persistence.messages.append(thread_id, {"role": "user", "content": "a" * 2_000_000}, user_id=user_id)
    started = time.monotonic()

    page = await persistence.messages.page(thread_id, user_id=user_id, search="a" * 254 + "b")

    assert page.items == ()
    assert time.monotonic() - started < persistence.settings.statement_timeout


async def test_a_search_is_read_by_pages_too(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = await new_thread(persistence, user_id)
    texts = [f"{'hit' if place % 2 else 'miss'} {place}" for place in range(9)]
    await persistence.messages.append_many(thread_id, [said(text) for text in texts], user_id=user_id)

    newest = await persistence.messages.page(thread_id, user_id=user_id, search="hit", limit=3)
    older = await persistence.messages.page(thread_id, user_id=user_id, search="hit", limit=3, before=newest.before)

    assert [one.text for one in (*older, *newest)] == ["hit 1", "hit 3", "hit 5", "hit 7"]
    assert older.before is None


async def test_an_update_changes_what_is_given_and_keeps_the_place(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    thread_id = await new_thread(any_persistence, any_user)
    batch: list[NewMessage[Any]] = [
        NewMessage(message=ASKED, total_tokens=3, meta={"a": 1}),
        NewMessage(message=said(2)),
    ]
    first, _ = await any_persistence.messages.append_many(thread_id, batch, user_id=any_user)

    async def update(**changes: Any) -> MessageRecord[Any]:
        return await any_persistence.messages.update(thread_id, first.message_id, user_id=any_user, **changes)

    counted = await update(total_tokens=5, usages={"prompt_tokens": 5})
    marked = await update(meta={"b": 2})
    rewritten = await update(message={"role": "tool", "content": "new", "tool_call_id": "c", "reasoning": "r"})

    assert (counted.message, counted.total_tokens, counted.usages) == (ASKED, 5, {"prompt_tokens": 5})
    assert (marked.message, marked.total_tokens, marked.meta) == (ASKED, 5, {"b": 2})
    assert rewritten.message == {"role": "tool", "content": "new", "tool_call_id": "c", "reasoning": "r"}
    assert (rewritten.role, rewritten.tool_calls, rewritten.total_tokens) == (MessageRole.TOOL, None, 5)
    assert {one.seq for one in (counted, marked, rewritten)} == {first.seq}
    assert first.updated_at < counted.updated_at < marked.updated_at < rewritten.updated_at
    assert rewritten.created_at == first.created_at
    assert (await any_persistence.messages.page(thread_id, user_id=any_user)).items[0] == rewritten


async def test_an_update_of_nothing_is_refused(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = await new_thread(persistence, user_id)
    made = await persistence.messages.append(thread_id, said(1), user_id=user_id)

    with pytest.raises(InvalidInputError, match="nothing to update"):
        await persistence.messages.update(thread_id, made.message_id, user_id=user_id)


async def test_a_deleted_message_is_gone_and_its_id_is_free(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = await new_thread(persistence, user_id)
    messages = persistence.messages
    first, second = await messages.append_many(thread_id, [said(1), said(2)], user_id=user_id)

    assert await messages.delete(thread_id, first.message_id, user_id=user_id) is True
    assert await messages.delete(thread_id, first.message_id, user_id=user_id) is False
    again = await messages.append(thread_id, said("again"), message_id=first.message_id, user_id=user_id)

    assert (await messages.page(thread_id, user_id=user_id)).items == (second, again)


async def test_a_page_after_a_deleted_message_goes_on_behind_it(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)
    made = await persistence.messages.append_many(thread_id, [said(i) for i in range(5)], user_id=user_id)
    page = await persistence.messages.page(thread_id, user_id=user_id, limit=2)
    await persistence.messages.delete(thread_id, made[3].message_id, user_id=user_id)

    older = await persistence.messages.page(thread_id, user_id=user_id, before=page.before)
    newer = await persistence.messages.page(thread_id, user_id=user_id, after=older.after)

    assert older.items == made[:3]
    assert newer.items == made[4:]


@pytest.mark.parametrize("unfit", [{"role": "user", "content": "a\0"}, {"role": "critic"}, 5])
async def test_of_a_batch_that_is_refused_nothing_stays_even_if_the_caller_commits(
    persistence: Persistence[str, str], user_id: str, unfit: Any
) -> None:
    thread_id = await new_thread(persistence, user_id)

    async with persistence.begin(user_id=user_id) as uow:
        with pytest.raises(InvalidInputError, match=r"^messages\[1\]"):
            await uow.messages.append_many(thread_id, [said(1), unfit])

    assert await contents(persistence, thread_id, user_id) == []
