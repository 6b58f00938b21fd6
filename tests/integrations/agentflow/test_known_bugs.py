"""Known bugs of the frameworks' PgCheckpointers do not exist here."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from frameworks import Framework, framework, need_frameworks
from hardening.hardening_servers import REPLY_LOST, LossyProxy, migrated_settings, own_postgresql
from redis.asyncio import Redis

from agent_persistence import migrate
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.errors import InvalidInputError, NotMigratedError
from agent_persistence.settings import PersistenceSettings

need_frameworks()

Settings = Callable[..., Awaitable[PersistenceSettings]]


async def fetch(address: str, query: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(address)
    try:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


async def address_for(settings_for: Settings, *pair: str) -> str:
    url = (await settings_for(*pair)).database_url
    assert url is not None
    return url.get_secret_value()


# --- Set-up ---


async def test_set_up_checks_the_schema_and_makes_no_table(
    words: Framework, make: Any, make_database: Callable[[], Awaitable[str]]
) -> None:
    empty = await make_database()

    with pytest.raises(NotMigratedError, match="agent-persistence upgrade"):
        await make(words, postgres_dsn=empty).asetup()

    assert await fetch(empty, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
    await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=empty))
    assert await make(words, postgres_dsn=empty).asetup() is True


async def test_the_first_call_needs_no_set_up(words: Framework, make: Any, config: dict[str, Any]) -> None:
    await make(words).aput_messages(config, [words.text("hi")])

    assert [one.text() for one in await make(words).alist_messages(config)] == ["hi"]


async def test_a_schema_of_ones_own_has_states_and_a_cache_of_its_own(
    words: Framework, make: Any, make_database: Callable[[], Awaitable[str]], config: dict[str, Any]
) -> None:
    address = await make_database()
    tenants = {}
    for schema in ("public", "tenant_b"):
        tenants[schema] = make(words, postgres_dsn=address, schema=schema)
        settings = {"database_url": address, "db_schema": None if schema == "public" else schema}
        await migrate.upgrade(PersistenceSettings(_env_file=None, **settings))

    await tenants["public"].aput_state(config, words.state(context_summary="secret"))
    await tenants["public"].aput_state_cache(config, words.state(context_summary="draft"))

    assert await tenants["tenant_b"].aget_state(dict(config)) is None
    assert await tenants["tenant_b"].aget_state_cache(dict(config)) is None
    types = "SELECT n.nspname::text FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE typname = $1"
    assert sorted(await fetch(address, types, "message_role")) == [("public",), ("tenant_b",)]


async def test_no_key_of_another_table_is_drawn_by_the_database(settings_for: Settings) -> None:
    address = await address_for(settings_for, "bigint", "int")

    drawn = await fetch(
        address,
        "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'public' "
        "AND (column_default LIKE 'nextval%' OR is_identity = 'YES') AND column_name IN ('thread_id', 'user_id')",
    )

    assert drawn == [("threads", "thread_id")]


async def test_a_mistake_of_the_caller_is_no_reason_to_try_again(words: Framework, make: Any) -> None:
    checkpointer, started = make(words), time.monotonic()

    for config in ({}, {"thread_id": "t"}, {"user_id": "u"}, {"thread_id": "t\0", "user_id": "u"}):
        with pytest.raises(InvalidInputError):
            await checkpointer.aput_state(config, words.state())

    assert time.monotonic() - started < 1


# --- Ids ---


async def test_a_thread_is_made_once(words: Framework, make: Any, address: str, config: dict[str, Any]) -> None:
    checkpointer = make(words)

    await asyncio.gather(
        *(checkpointer.aput_messages(config, [words.text(str(number))]) for number in range(5)),
        checkpointer.aput_thread(config, words.thread_info(thread_id=config["thread_id"])),
    )

    assert len(await checkpointer.alist_messages(config)) == 5
    assert await fetch(address, "SELECT count(*) FROM threads WHERE user_id = $1", config["user_id"]) == [(1,)]


@pytest.mark.parametrize("kind", ["int", "bigint"])
async def test_number_ids_may_be_texts_in_every_call(
    words: Framework, make: Any, settings_for: Settings, kind: str
) -> None:
    checkpointer = make(
        words, postgres_dsn=await address_for(settings_for, kind, kind), id_type=kind, user_id_type=kind
    )
    number = uuid.uuid4().int >> 98
    as_text, as_number = {"thread_id": str(number), "user_id": "7"}, {"thread_id": number, "user_id": 7}
    message = words.text("hi")
    message.message_id = number

    await checkpointer.aput_state(as_text, words.state(context_summary="s"))
    await checkpointer.aput_messages(as_text, [message])

    for config in (as_text, as_number):
        assert (await checkpointer.aget_state(config)).context_summary == "s"
        assert await checkpointer.alist_messages(config) == [message]
        assert await checkpointer.aget_message(config, str(number)) == message
        assert (await checkpointer.aget_thread(config)).thread_id == config["thread_id"]
        assert number in [one.thread_id for one in await checkpointer.alist_threads(config)]
    assert await checkpointer.adelete_message(as_text, number) is True
    assert await checkpointer.aclean_thread(as_number) is True


@pytest.mark.parametrize(("kind", "bits"), [("int", 32), ("bigint", 64)])
async def test_the_unsigned_numbers_that_the_framework_draws_can_be_stored(
    words: Framework, make: Any, settings_for: Settings, kind: str, bits: int
) -> None:
    checkpointer = make(words, postgres_dsn=await address_for(settings_for, kind, "string"), id_type=kind)
    config = {"thread_id": uuid.uuid4().int >> 98, "user_id": "u"}
    said = [words.text("a"), words.text("b")]
    said[0].message_id, said[1].message_id = 2**bits - 5, 2 ** (bits - 1)

    await checkpointer.aput_messages(config, said)

    assert await checkpointer.alist_messages(config) == said
    assert await checkpointer.aget_message(config, 2**bits - 5) == said[0]
    said[0].message_id = 2**bits
    with pytest.raises(InvalidInputError, match=f"message_id: is outside the range of {kind}"):
        await checkpointer.aput_messages(config, said)


@pytest.mark.parametrize(("given", "field"), [({"thread_id": "07"}, "thread_id"), ({"user_id": 7.0}, "user_id")])
async def test_what_only_looks_like_an_id_is_refused_by_name(
    words: Framework, make: Any, settings_for: Settings, given: dict[str, Any], field: str
) -> None:
    checkpointer = make(
        words, postgres_dsn=await address_for(settings_for, "int", "int"), id_type="int", user_id_type="int"
    )

    with pytest.raises(InvalidInputError) as refusal:
        await checkpointer.aget_state({"thread_id": 7, "user_id": 7, **given})

    assert refusal.value.field == field


async def test_a_text_id_may_be_a_number(words: Framework, make: Any, user_id: str) -> None:
    checkpointer, message = make(words), words.text("hi")
    config = {"thread_id": uuid.uuid4().int >> 98, "user_id": user_id}
    message.message_id = 7

    await checkpointer.aput_messages(config, [message])

    assert await checkpointer.alist_messages({**config, "thread_id": str(config["thread_id"])}) == [message]
    assert await checkpointer.aget_message(config, 7) == message


# --- Owners ---


async def test_a_user_touches_nothing_of_another_s(words: Framework, make: Any, config: dict[str, Any]) -> None:
    checkpointer, stranger = make(words), {**config, "user_id": "mallory"}
    state, message = words.state(context_summary="mine"), words.text("mine", message_id="same")
    await checkpointer.aput_state(config, state)
    await checkpointer.aput_messages(config, [message])

    assert await checkpointer.aget_state(stranger) is None
    assert await checkpointer.aclear_state(stranger) is True
    assert await checkpointer.aclean_thread(stranger) is False
    for write in (
        checkpointer.aput_state(stranger, words.state()),
        checkpointer.aput_messages(stranger, [words.text("forged", message_id="same")]),
        checkpointer.aput_thread(stranger, words.thread_info(thread_id=config["thread_id"], thread_name="stolen")),
    ):
        with pytest.raises(words.storage_error):
            await write
    with pytest.raises(InvalidInputError, match="thread_info.user_id"):
        await checkpointer.aput_thread(
            config, words.thread_info(thread_id=config["thread_id"], user_id="somebody else")
        )

    assert await checkpointer.aget_state(config) == state
    assert await checkpointer.alist_messages(config) == [message]
    assert (await checkpointer.aget_thread(config)).thread_name is None


async def test_threads_may_have_messages_of_the_same_id(words: Framework, make: Any, config: dict[str, Any]) -> None:
    checkpointer, elsewhere = make(words), {"thread_id": f"t-{uuid.uuid4()}", "user_id": "another"}

    for thread, text in ((config, "one"), (elsewhere, "two")):
        await checkpointer.aput_messages(thread, [words.text(text, message_id="same")])

    assert (await checkpointer.aget_message(config, "same")).text() == "one"
    assert (await checkpointer.aget_message(elsewhere, "same")).text() == "two"


async def test_users_are_kept_apart_unless_told_otherwise(words: Framework, make: Any, config: dict[str, Any]) -> None:
    one_tenant, stranger = make(words, enforce_user_isolation=False), {**config, "user_id": "another"}

    await one_tenant.aput_state(config, words.state(context_summary="one"))
    await one_tenant.aput_state_cache(config, words.state(context_summary="draft"))

    assert (await one_tenant.aget_state_cache(stranger)).context_summary == "draft"
    assert (await one_tenant.aget_thread(stranger)).user_id == config["user_id"]
    assert config["thread_id"] in [one.thread_id for one in await one_tenant.alist_threads({})]
    assert [one.thread_id for one in await one_tenant.alist_threads({}, config["thread_id"])] == [config["thread_id"]]


# --- The cache ---


async def test_no_replica_reads_a_state_that_another_has_replaced(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    ours, theirs, mine, other = make(words), make(words), dict(config), dict(config)
    await ours.aput_state(mine, words.state(context_summary="1"))
    await ours.aput_state_cache(mine, words.state(context_summary="1 and more"))
    assert (await theirs.aget_state_cache(other)).context_summary == "1 and more"

    await theirs.aput_state(other, words.state(context_summary="2"))

    for replica in (ours, theirs):
        assert (await replica.aget_state_cache(dict(config))).context_summary == "2"
    await ours.aput_state_cache(mine, words.state(context_summary="late"))  # a run that was overtaken
    assert (await theirs.aget_state_cache(dict(config))).context_summary == "2"


async def test_a_late_cache_write_brings_no_deleted_thread_back(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer, run = make(words), dict(config)
    await checkpointer.aput_state(run, words.state(context_summary="gone"))

    await checkpointer.aclean_thread(dict(config))
    await checkpointer.aput_state_cache(run, words.state(context_summary="late"))

    assert await checkpointer.aget_state_cache(dict(config)) is None
    assert await checkpointer.aget_thread(config) is None


async def test_a_client_that_decodes_is_refused_by_name(words: Framework, make: Any, servers: EmbeddedServers) -> None:
    async with Redis.from_url(servers.redis_url, decode_responses=True) as client:
        with pytest.raises(InvalidInputError, match="redis: must return bytes"):
            await make(words, redis=client).asetup()


async def test_options_of_a_pool_may_say_that_it_decodes(words: Framework, make: Any, config: dict[str, Any]) -> None:
    options = {"decode_responses": True, "max_connections": 20, "socket_timeout": 2}
    checkpointer = make(words, redis_pool_config=options)

    await checkpointer.aput_state_cache(config, words.state(context_summary="draft"))

    assert (await checkpointer.aget_state_cache(config)).context_summary == "draft"


# --- Messages and threads ---


async def test_messages_of_one_call_have_an_order(words: Framework, make: Any, config: dict[str, Any]) -> None:
    said = [words.text(f"m{number}") for number in range(12)]

    await make(words).aput_messages(config, said)

    assert await make(words).alist_messages(config, limit=3) == said[:3]
    assert await make(words).alist_messages(config) == said


async def test_a_message_that_is_put_again_is_changed_as_a_whole(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer, usages = make(words), words.messages.TokenUsages
    said = [words.text("a"), words.text("b", message_id="m"), words.text("c")]
    await checkpointer.aput_messages(config, said)
    changed = words.message(
        message_id="m",
        role="assistant",
        content=[words.messages.TextBlock(text="changed")],
        tools_calls=[{"id": "1"}],
        usages=usages(completion_tokens=1, prompt_tokens=2, total_tokens=3),
        metadata={"new": True},
    )

    await checkpointer.aput_messages(config, [words.text("d"), changed])

    found = await checkpointer.alist_messages(config)
    assert [one.text() for one in found] == ["a", "changed", "c", "d"]
    assert found[1] == changed


async def test_the_thread_that_was_used_last_is_listed_first(
    words: Framework, make: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSISTENCE_THREAD_TOUCH_INTERVAL", "0")
    checkpointer, later = make(words), {**config, "thread_id": f"later-{uuid.uuid4()}"}
    for thread in (config, later):
        await checkpointer.aput_messages(thread, [words.text("hi")])

    await checkpointer.aput_state(config, words.state())

    assert [one.thread_id for one in await checkpointer.alist_threads(config)] == [
        config["thread_id"],
        later["thread_id"],
    ]


async def test_percent_and_underscore_of_a_search_mean_themselves(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer = make(words)
    info = words.thread_info(thread_id=config["thread_id"], thread_name="abc")
    await checkpointer.aput_thread(config, info)
    await checkpointer.aput_messages(config, [words.text("abc")])

    for search in ("%", "a_c"):
        assert await checkpointer.alist_messages(config, search) == []
        assert await checkpointer.alist_threads(config, search) == []


# --- States ---


async def test_values_that_jsonb_cannot_hold_come_back(words: Framework, make: Any, config: dict[str, Any]) -> None:
    odd = {"nul\0": ["a\0b"], "half": "\ud800", "private": "\ue000f", "big": 2**70}
    message = words.message(role="tool", content=[words.messages.TextBlock(text="\0")], metadata=odd)
    answer = words.messages.ToolResultBlock(call_id="c\0", output="\udfff")
    said = [message, words.message(role="tool", content=[answer])]
    state = words.state(context=said, context_summary="\0")
    state.execution_meta.internal_data = odd
    checkpointer = make(words)

    await checkpointer.aput_state(config, state)
    await checkpointer.aput_state_cache(config, state)
    await checkpointer.aput_messages(config, said)

    assert await checkpointer.alist_messages(config) == said
    for found in (await checkpointer.aget_state(config), await checkpointer.aget_state_cache(config)):
        assert found == state


async def test_a_value_without_a_json_form_is_refused_by_name(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer, state, message = make(words), words.state(), words.text("hi")
    state.execution_meta.internal_data = message.metadata = {"no JSON": object()}
    info = words.thread_info(thread_id=config["thread_id"], metadata={"no JSON": object()})

    for call, field in (
        (checkpointer.aput_state(config, state), "state"),
        (checkpointer.aput_messages(config, [words.text("fine"), message]), r"messages\[1\]"),
        (checkpointer.aput_messages(config, [], {"no JSON": object()}), "metadata"),
        (checkpointer.aput_thread(config, info), "thread_info.metadata"),
        (checkpointer.aput_cache_value("n", "k", object()), "value"),
    ):
        with pytest.raises(InvalidInputError, match=f"^{field}: cannot be written as JSON"):
            await call
    assert await checkpointer.aget_thread(config) is None


async def test_an_invalid_thread_id_has_no_owner(agentflow: Framework, make: Any) -> None:
    assert await make(agentflow).aget_thread_owner("no\nid") is None


async def test_a_state_of_a_class_of_ones_own_keeps_its_fields(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    class Order(words.state):  # type: ignore[misc,name-defined]  # a class at run time
        number: int = 0

    checkpointer = make(words)
    checkpointer.bind_state_type(Order)

    await checkpointer.aput_state(config, Order(number=7))

    again = make(words)
    again.bind_state_type(Order)
    assert await again.aget_state(config) == Order(number=7)


async def test_fields_of_a_state_are_not_lost_without_a_word(make: Any, config: dict[str, Any]) -> None:
    pyagenity = framework("pyagenity")

    class Order(pyagenity.state):  # type: ignore[misc,name-defined]  # a class at run time
        number: int = 0

    await make(pyagenity).aput_state(config, Order(number=7))

    with pytest.raises(InvalidInputError, match=r"call bind_state_type\(Order\)"):
        await make(pyagenity).aget_state(config)
    assert (await make(pyagenity).aget_state({**config, "state_class": Order})).number == 7
    assert (await make(pyagenity, ours=pyagenity.ours[Order]).aget_state(config)).number == 7


async def test_a_run_that_was_overtaken_saves_nothing(agentflow: Framework, make: Any, config: dict[str, Any]) -> None:
    from agentflow.core.exceptions import StaleStateError  # noqa: PLC0415 - where it is installed

    checkpointer, late = make(agentflow), dict(config)
    await checkpointer.aput_state(dict(config), agentflow.state(context_summary="1"))
    await checkpointer.aget_state(late)
    await checkpointer.aput_state(dict(config), agentflow.state(context_summary="2"))

    with pytest.raises(StaleStateError) as conflict:
        await checkpointer.aput_checkpoint(late, agentflow.state(), [agentflow.text("late")])

    assert conflict.value.context["thread_id"] == config["thread_id"]
    assert (await checkpointer.aget_state(late)).context_summary == "2"
    assert await checkpointer.alist_messages(config) == []
    await checkpointer.aput_state(late, agentflow.state(context_summary="3"))  # it has read again


async def test_a_checkpoint_is_stored_whole_or_not_at_all(
    agentflow: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer = make(agentflow)
    unstorable = agentflow.text("x")
    unstorable.message_id = "m" * 300

    with pytest.raises(InvalidInputError, match="message_id"):
        await checkpointer.aput_checkpoint(config, agentflow.state(), [agentflow.text("fine"), unstorable])

    assert await checkpointer.aget_state(config) is None
    assert await checkpointer.aget_thread(config) is None


@pytest.mark.slow
async def test_a_lost_reply_to_commit_is_no_conflict(agentflow: Framework, make: Any, config: dict[str, Any]) -> None:
    async with own_postgresql() as server, LossyProxy(server) as proxy:
        url = (await migrated_settings(server)).database_url
        assert url is not None
        lossy = url.get_secret_value().replace(f":{server.port}/", f":{proxy.port}/")
        checkpointer = make(agentflow, postgres_dsn=lossy, redis_url=None, pool_config={"max_size": 1})
        await checkpointer.aput_state(config, agentflow.state(context_summary="1"))

        async with proxy.losing_a_commit(REPLY_LOST):
            await checkpointer.aput_checkpoint(config, agentflow.state(context_summary="2"), [agentflow.text("once")])

        assert (await checkpointer.aget_state(config)).context_summary == "2"
        assert [one.text() for one in await checkpointer.alist_messages(config)] == ["once"]
        await checkpointer.arelease()
