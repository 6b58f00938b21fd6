"""The DynamoDB backend beyond the contract: its table, large states, old items, faults."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from typing import Any

import pytest
import pytest_asyncio
from botocore.exceptions import ReadTimeoutError
from dynamodb_server import REGION

from agent_persistence import CommitUnknownError, DatabaseError, NotMigratedError, PersistenceSettings, UnavailableError
from agent_persistence.backends.dynamodb import DynamoDBCheckpointer
from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.errors import ClosedError, CorruptRowError, InvalidInputError, MisuseError, StateConflictError
from hooked_client import HookedClient, Send, failing, refusing, server_error

LARGE = {"noise": os.urandom(400_000).hex()}  # of which compression leaves more than half: two parts
REPETITIVE = {"list": ["the same again"] * 50_000}
LOST = ReadTimeoutError(endpoint_url="http://somewhere")


class Bench:
    """A checkpointer over a client whose calls a test can replace, and the items of its table."""

    def __init__(self, client: Any, table: str) -> None:
        self.client = HookedClient(client)
        self.table = table
        self.added = 0.0
        self.checkpointer = self.another()

    def another(self, **options: Any) -> DynamoDBCheckpointer:
        options = {"client": self.client, "user_id": "ada", "clock": lambda: time.time() + self.added} | options
        return DynamoDBCheckpointer(table=self.table, **options)

    async def items(self) -> list[dict[str, Any]]:
        pages = [page async for page in self.client.get_paginator("scan").paginate(TableName=self.table)]
        return [item for page in pages for item in page["Items"]]

    async def states(self) -> list[dict[str, Any]]:
        return [item for item in await self.items() if item["pk"]["S"].startswith("states#")]


@pytest_asyncio.fixture
async def bench(dynamodb: Any) -> Bench:
    """A bench with a new table."""
    bench = Bench(dynamodb, f"table-{uuid.uuid4().hex}")
    await bench.checkpointer.create_table()
    return bench


# --- the table ---


async def test_the_table_is_billed_by_request_and_lets_items_expire(dynamodb: Any) -> None:
    name = f"table-{uuid.uuid4().hex}"
    checkpointer = DynamoDBCheckpointer(client=dynamodb, table=name, user_id="u")
    with pytest.raises(NotMigratedError, match=rf"table {name} .*create_table\(\)"):
        await checkpointer.save_state("t", {})

    await checkpointer.create_table()
    await checkpointer.create_table()  # again does no harm

    described = (await dynamodb.describe_table(TableName=name))["Table"]
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    ttl = (await dynamodb.describe_time_to_live(TableName=name))["TimeToLiveDescription"]
    assert (ttl["TimeToLiveStatus"], ttl["AttributeName"]) == ("ENABLED", "expires_at")
    assert (await checkpointer.save_state("t", {})).version > 0


async def test_a_checkpointer_from_settings_closes_its_client(moto_url: str, dynamodb_table: str) -> None:
    settings = PersistenceSettings(
        dynamodb_table=dynamodb_table, dynamodb_endpoint_url=moto_url, dynamodb_region=REGION, namespace="from-settings"
    )
    made = DynamoDBCheckpointer.from_settings(settings, user_id="u")
    with pytest.raises(MisuseError, match="async with"):
        await made.load_state("t")

    async with made:
        saved = await made.save_state("t", 1)
        assert await made.load_state("t") == saved

    with pytest.raises(ClosedError):
        await made.load_state("t")


async def test_a_client_that_was_given_stays_open(bench: Bench, dynamodb: Any) -> None:
    async with bench.another(client=dynamodb):
        pass

    assert (await dynamodb.list_tables())["TableNames"]


def test_wrong_arguments_are_refused_by_name(dynamodb: Any) -> None:
    with pytest.raises(InvalidInputError, match="^client: "):
        DynamoDBCheckpointer(client=dynamodb, endpoint_url="http://h", user_id="u")
    with pytest.raises(InvalidInputError, match="^user_id: "):
        DynamoDBCheckpointer(client=dynamodb, user_id="")


# --- large states ---


async def test_a_state_beyond_an_item_is_split_and_one_that_shrinks_is_compressed(bench: Bench) -> None:
    large = await bench.checkpointer.save_state("large", LARGE)
    assert len(await bench.states()) == 3
    repetitive = await bench.checkpointer.save_state("repetitive", REPETITIVE)
    assert len(await bench.states()) == 4

    assert await bench.checkpointer.load_state("large") == large
    assert await bench.checkpointer.load_state("repetitive") == repetitive
    assert [state.state for state in await bench.checkpointer.state_history("large")] == [LARGE]


async def test_a_reader_sees_the_old_state_until_all_of_the_new_one_is_there(bench: Bench) -> None:
    old = await bench.checkpointer.save_state("t", "old")
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold(send: Send) -> Any:
        reached.set()
        await go_on.wait()
        return await send()

    bench.client.once("transact_write_items", hold)
    saving = asyncio.create_task(bench.checkpointer.save_state("t", LARGE))
    await reached.wait()

    assert len(await bench.states()) == 3  # the parts are there
    assert await bench.checkpointer.load_state("t") == old
    assert list(await bench.checkpointer.state_history("t")) == [old]
    go_on.set()
    new = await saving
    assert await bench.checkpointer.load_state("t") == new


@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "deleted"])
async def test_a_reader_never_sees_half_of_a_state_that_is_removed(bench: Bench, *, is_replaced: bool) -> None:
    """The thread is removed after the reader has read it and before it reads the parts."""
    await bench.checkpointer.save_state("t", LARGE)
    undisturbed = bench.another(limits=CheckpointLimits(max_history=1))

    async def remove_first(send: Send) -> Any:
        if is_replaced:
            await undisturbed.save_state("t", "new")
        else:
            await undisturbed.delete_thread("t")
        return await send()

    bench.client.once("query", remove_first)  # that of the parts
    found = await bench.checkpointer.load_state("t")

    assert (found and found.state) == ("new" if is_replaced else None)


async def test_a_state_without_its_parts_is_corrupt_and_the_others_can_be_read(bench: Bench) -> None:
    first = await bench.checkpointer.save_state("t", "first")
    large = await bench.checkpointer.save_state("t", LARGE)
    part = next(item for item in await bench.states() if item["sk"]["S"].startswith("part#"))
    await bench.client.delete_item(TableName=bench.table, Key={name: part[name] for name in ("pk", "sk")})

    with pytest.raises(CorruptRowError):
        await bench.checkpointer.load_state("t")
    history = await bench.checkpointer.state_history("t")

    assert list(history) == [first]
    assert [corrupt.key for corrupt in history.corrupt] == [("t", large.version)]


async def test_a_large_state_that_is_not_saved_leaves_no_parts(bench: Bench) -> None:
    saved = await bench.checkpointer.save_state("t", 1)

    async def be_faster(send: Send) -> Any:
        await bench.another(client=bench.client).save_state("t", 2)
        return await send()

    bench.client.once("transact_write_items", be_faster)
    with pytest.raises(StateConflictError):
        await bench.checkpointer.save_state("t", LARGE, expected_version=saved.version)

    assert len(await bench.states()) == 2


# --- what is out of reach is removed ---


async def test_a_deleted_thread_leaves_nothing(bench: Bench) -> None:
    for step in range(26):  # one more than a batch
        await bench.checkpointer.save_state("t", step)
    await bench.checkpointer.save_state("t", LARGE)

    await bench.checkpointer.delete_thread("t")

    assert await bench.items() == []


async def test_an_interrupted_deletion_is_not_seen_and_the_next_one_completes_it(bench: Bench) -> None:
    checkpointer = bench.another(retry_seconds=0)
    await checkpointer.save_state("t", LARGE)
    bench.client.once("batch_write_item", refusing("ThrottlingException"))

    with pytest.raises(UnavailableError):
        await checkpointer.delete_thread("t")

    assert len(await bench.items()) == 4
    assert await checkpointer.load_state("t") is None
    assert len(await checkpointer.state_history("t")) == 0
    assert len(await checkpointer.list_threads()) == 0
    assert not await checkpointer.delete_thread("t")
    assert await bench.items() == []


async def test_a_thread_is_created_again_over_an_interrupted_deletion(bench: Bench) -> None:
    checkpointer = bench.another(retry_seconds=0)
    old = await checkpointer.save_state("t", LARGE)
    bench.client.once("batch_write_item", refusing("ThrottlingException"))
    with pytest.raises(UnavailableError):
        await checkpointer.delete_thread("t")

    new = await checkpointer.save_state("t", "new")

    assert new.version > old.version
    assert list(await checkpointer.state_history("t")) == [new]
    assert len(await bench.items()) == 2


async def test_a_deletion_whose_replies_were_lost_returns_that_the_thread_existed(bench: Bench) -> None:
    await bench.checkpointer.save_state("t", 1)
    for call in ("update_item", "batch_write_item", "delete_item"):
        bench.client.once(call, failing(LOST))

    assert await bench.checkpointer.delete_thread("t")
    assert await bench.items() == []


async def test_items_have_an_expiry_for_dynamodb_and_are_not_read_after_it(bench: Bench) -> None:
    saved = await bench.checkpointer.save_state("t", LARGE, ttl=10)
    assert saved.expires_at is not None
    expiries = {item["sk"]["S"][:4]: int(item["expires_at"]["N"]) for item in await bench.items()}
    ends = saved.expires_at.timestamp()
    assert all(ends <= expiry < ends + 86_402 for expiry in expiries.values())
    assert len(expiries) == 3
    bench.added = 11

    assert await bench.checkpointer.load_state("t") is None
    assert len(await bench.checkpointer.list_threads()) == 0
    assert len(await bench.items()) == 4
    again = await bench.checkpointer.save_state("t", "again")
    assert await bench.checkpointer.load_state("t") == again
    assert len(await bench.items()) == 2


async def test_a_thread_stays_in_the_table_as_long_as_one_of_its_states(bench: Bench) -> None:
    async def removed() -> int | None:
        [thread] = [item for item in await bench.items() if item["sk"]["S"] == "t"]
        return int(thread["expires_at"]["N"]) if "expires_at" in thread else None

    await bench.checkpointer.save_state("t", 1, ttl=600)
    long = await removed()
    await bench.checkpointer.save_state("t", 2, ttl=10)
    assert await removed() == long
    await bench.checkpointer.save_state("t", 3)
    await bench.checkpointer.save_state("t", 4, ttl=10)
    assert await removed() is None


async def test_versions_and_times_of_a_thread_grow_although_the_clocks_of_its_writers_differ(bench: Bench) -> None:
    first = await bench.checkpointer.save_state("t", 1)
    bench.added = -3600
    second = await bench.checkpointer.save_state("t", 2)
    assert (second.version, second.created_at > first.created_at) == (first.version + 1, True)

    bench.client.once("batch_write_item", refusing("ThrottlingException"))
    with pytest.raises(UnavailableError):
        await bench.another(retry_seconds=0).delete_thread("t")
    third = await bench.checkpointer.save_state("t", 3)

    assert third.version > second.version


async def test_only_the_newest_versions_are_kept(bench: Bench) -> None:
    checkpointer = bench.another(limits=CheckpointLimits(max_history=2))
    saved = [await checkpointer.save_state("t", state) for state in (LARGE, LARGE, 3, 4)]

    assert list(await checkpointer.state_history("t")) == saved[:-3:-1]
    assert await checkpointer.load_state("t", version=saved[0].version) is None
    assert len(await bench.states()) == 2


# --- faults ---


async def test_a_save_whose_reply_was_lost_is_done_once(bench: Bench) -> None:
    first = await bench.checkpointer.save_state("t", 1, ttl=60)
    bench.client.once("transact_write_items", failing(LOST))

    second = await bench.checkpointer.save_state("t", 2, ttl=60, expected_version=first.version)

    assert list(await bench.checkpointer.state_history("t")) == [second, first]


@pytest.mark.parametrize("expected", [True, False], ids=["over a version", "over any"])
async def test_a_save_whose_reply_was_lost_is_done_once_though_others_have_saved_since(
    bench: Bench, *, expected: bool
) -> None:
    checkpointer = bench.checkpointer
    first = await checkpointer.save_state("t", 1)

    async def lose(send: Send) -> Any:
        await send()
        await checkpointer.save_state("t", 3)
        raise LOST

    bench.client.once("transact_write_items", lose)

    second = await checkpointer.save_state("t", LARGE, expected_version=first.version if expected else None)

    third = await checkpointer.load_state("t")
    assert third is not None
    assert third.state == 3
    assert list(await checkpointer.state_history("t")) == [third, second, first]


@pytest.mark.parametrize("reply", [LOST, server_error("InternalServerError"), server_error("ServiceUnavailable")])
async def test_without_time_for_a_retry_a_lost_reply_leaves_the_outcome_unknown(bench: Bench, reply: Exception) -> None:
    checkpointer = bench.another(retry_seconds=0)
    bench.client.once("transact_write_items", failing(reply))

    with pytest.raises(CommitUnknownError):
        await checkpointer.save_state("t", LARGE)

    found = await checkpointer.load_state("t")  # its parts were not removed
    assert found is not None
    assert found.state == LARGE


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalServerError", "TransactionCanceledException"])
async def test_a_call_to_a_busy_server_is_retried(bench: Bench, code: str) -> None:
    bench.client.once("transact_write_items", refusing(code), times=2)

    saved = await bench.checkpointer.save_state("t", 1)

    assert await bench.checkpointer.load_state("t") == saved
    assert bench.client.calls.count("transact_write_items") == 3


async def test_unprocessed_items_of_a_batch_are_sent_again(bench: Bench) -> None:
    async def do_nothing(send: Any) -> Any:
        return {"UnprocessedItems": send.keywords["RequestItems"]}

    bench.client.once("batch_write_item", do_nothing, times=2)

    saved = await bench.checkpointer.save_state("t", LARGE)

    assert await bench.checkpointer.load_state("t") == saved


@pytest.mark.parametrize("is_new", [True, False], ids=["a new thread", "a thread"])
async def test_parts_that_were_not_all_written_are_written_again(bench: Bench, *, is_new: bool) -> None:
    if not is_new:
        await bench.checkpointer.save_state("t", 1)
    bench.client.once("batch_write_item", refusing("ThrottlingException"))

    saved = await bench.checkpointer.save_state("t", LARGE)

    assert await bench.checkpointer.load_state("t") == saved
    assert len(await bench.states()) == (3 if is_new else 4)


async def test_a_refusal_names_the_code_and_repeats_nothing_of_the_request(bench: Bench) -> None:
    bench.client.once("transact_write_items", refusing("AccessDeniedException"))

    with pytest.raises(DatabaseError, match="^DynamoDB refused: AccessDeniedException$"):
        await bench.checkpointer.save_state("t", 1)


async def test_a_transaction_canceled_for_a_permanent_reason_is_not_sent_again(bench: Bench) -> None:
    bench.client.once("transact_write_items", refusing("TransactionCanceledException", "None", "ValidationError"))

    with pytest.raises(DatabaseError, match="^DynamoDB refused: ValidationError$"):
        await bench.checkpointer.save_state("t", 1)

    assert bench.client.calls.count("transact_write_items") == 1


async def test_another_server_needs_no_region_and_aws_does(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)

    async with DynamoDBCheckpointer(endpoint_url=moto_url, user_id="u") as checkpointer:
        await checkpointer.create_table()
    with pytest.raises(DatabaseError, match="PERSISTENCE_DYNAMODB_REGION"):
        async with DynamoDBCheckpointer(user_id="u"):
            pass
    with pytest.raises(InvalidInputError, match="^endpoint_url: "):
        async with DynamoDBCheckpointer(endpoint_url="somewhere", user_id="u"):
            pass


async def test_a_server_that_does_not_answer_is_unavailable(moto_url: str) -> None:
    assert moto_url  # credentials are set
    async with DynamoDBCheckpointer(
        endpoint_url="http://127.0.0.1:1", region=REGION, user_id="u", retry_seconds=0
    ) as checkpointer:
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await checkpointer.load_state("t")


async def test_without_credentials_the_error_names_the_variables(
    moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    async with DynamoDBCheckpointer(endpoint_url=moto_url, region=REGION, user_id="u") as checkpointer:
        with pytest.raises(DatabaseError, match="AWS_ACCESS_KEY_ID"):
            await checkpointer.load_state("t")
