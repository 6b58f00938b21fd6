import enum
import itertools
import threading
import time
import uuid
from typing import Any, Literal

import pytest
from asyncpg.pgproto import pgproto

from agent_persistence.errors import InvalidInputError
from agent_persistence.ids import BIGINT, ID_TYPES, INT, STRING, UUID, IdType, id_maker, uuid7

CANARY = "canary-4711"


class Colour(enum.StrEnum):
    RED = CANARY


class Level(enum.IntEnum):
    HIGH = 4711


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (STRING, "a"),
        (STRING, "x" * 255),
        (STRING, "😀" * 255),
        (STRING, "urn:user/7 with spaces, %, _ and \\"),
        (INT, 0),
        (INT, -(2**31)),
        (INT, 2**31 - 1),
        (BIGINT, -(2**63)),
        (BIGINT, 2**63 - 1),
        (UUID, uuid.UUID(int=0)),
        (UUID, uuid.UUID(int=2**128 - 1)),
        (UUID, pgproto.UUID("01a1fc1e-769b-7af2-8a18-2c342c35a628")),
    ],
)
def test_an_id_of_the_right_kind_is_kept_as_it_is(kind: IdType[Any], value: Any) -> None:
    assert kind.validate(value, "thread_id") is value


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (STRING, "", "must not be empty"),
        (STRING, CANARY + "x" * 245, "is longer than 255 characters"),
        (STRING, f"{CANARY}\0", "control characters"),
        (STRING, f"{CANARY}\n", "control characters"),
        (STRING, f"{CANARY}\x7f", "control characters"),
        (STRING, f"{CANARY}\x9f", "control characters"),
        (STRING, f"{CANARY}\ud800", "lone surrogates"),
        (STRING, 4711, "must be a string, not int"),
        (STRING, None, "must be a string, not NoneType"),
        (STRING, CANARY.encode(), "must be a string, not bytes"),
        (STRING, uuid.UUID(int=4711), "must be a string, not UUID"),
        (STRING, Colour.RED, "must be a string, not Colour"),
        (INT, Level.HIGH, "must be an int, not Level"),
        (INT, True, "must be an int, not bool"),
        (INT, 4711.0, "must be an int, not float"),
        (INT, "4711", "must be an int, not str"),
        (INT, 2**31, "is outside the range of int"),
        (INT, -(2**31) - 1, "is outside the range of int"),
        (BIGINT, False, "must be an int, not bool"),
        (BIGINT, 2**63, "is outside the range of bigint"),
        (BIGINT, -(2**63) - 1, "is outside the range of bigint"),
        (UUID, str(uuid.UUID(int=4711)), "must be a uuid.UUID, not str"),
        (UUID, 4711, "must be a uuid.UUID, not int"),
    ],
)
def test_an_id_of_another_kind_is_refused_without_showing_it(kind: IdType[Any], value: object, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        kind.validate(value, "thread_id")

    assert caught.value.field == "thread_id"
    assert reason in caught.value.reason
    assert CANARY not in str(caught.value)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (STRING, "007", "007"),
        (INT, "-7", -7),
        (BIGINT, str(2**62), 2**62),
        (UUID, "00000000-0000-0000-0000-000000000007", uuid.UUID(int=7)),
    ],
)
def test_an_id_is_read_from_text(kind: IdType[Any], text: str, value: object) -> None:
    assert kind.parse(text, "thread_id") == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (STRING, ""),
        (STRING, "a\0"),
        (INT, CANARY),
        (INT, ""),
        (INT, "1.5"),
        (INT, "9" * 5000),
        (BIGINT, str(2**63)),
        (UUID, CANARY),
        (UUID, ""),
    ],
)
def test_text_that_is_no_id_of_the_kind_is_refused_without_showing_it(kind: IdType[Any], text: str) -> None:
    with pytest.raises(InvalidInputError, match="^thread_id: ") as caught:
        kind.parse(text, "thread_id")

    assert CANARY not in str(caught.value)
    assert "999" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (INT, "07"),
        (INT, "+7"),
        (INT, " 7"),
        (BIGINT, "1_000"),
        (BIGINT, "\uff17"),
        (UUID, "{00000000-0000-0000-0000-000000000007}"),
        (UUID, "00000000000000000000000000000007"),
        (UUID, "00000000-0000-0000-0000-00000000000A"),
    ],
)
def test_a_second_spelling_of_an_id_is_refused_where_text_must_be_exact(kind: IdType[Any], text: str) -> None:
    assert str(kind.parse_exact(str(kind.parse(text, "thread_id")), "thread_id")) != text

    with pytest.raises(InvalidInputError, match="^thread_id: must be .* in its canonical spelling$"):
        kind.parse_exact(text, "thread_id")


def test_an_id_of_the_right_type_is_exact_and_text_ids_have_one_spelling() -> None:
    assert INT.parse_exact(7, "thread_id") == 7
    assert STRING.parse_exact("07", "thread_id") == "07"


def test_a_uuid7_has_the_version_the_variant_and_the_time() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000

    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before <= made.int >> 80 <= after


def test_uuid7_ids_grow_also_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    earlier = [uuid7() for _ in range(1000)]
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)

    made = earlier + [uuid7() for _ in range(1000)]

    assert all(one < other for one, other in itertools.pairwise(made))
    assert {one.version for one in made} == {7}


def test_uuid7_ids_made_by_several_threads_are_all_different_and_grow_in_each() -> None:
    made: list[list[uuid.UUID]] = [[] for _ in range(4)]
    start = threading.Barrier(len(made))

    def make(own: list[uuid.UUID]) -> None:
        start.wait()
        own.extend(uuid7() for _ in range(2000))

    threads = [threading.Thread(target=make, args=(own,)) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set().union(*made)) == 4 * 2000
    assert all(own == sorted(own) for own in made)


@pytest.mark.parametrize(
    ("kind", "generator", "version"),
    [(STRING, "uuid7", 7), (STRING, "uuid4", 4), (UUID, "uuid7", 7), (UUID, "uuid4", 4)],
)
def test_ids_of_texts_and_uuids_are_made_in_python(
    kind: IdType[Any], generator: Literal["uuid7", "uuid4"], version: int
) -> None:
    make = id_maker(kind, generator)
    assert make is not None

    made = [make() for _ in range(3)]

    assert {type(one) for one in made} == {kind.python_type}
    assert {uuid.UUID(str(one)).version for one in made} == {version}
    assert len(set(made)) == 3


@pytest.mark.parametrize("kind", [INT, BIGINT])
def test_ids_of_ints_are_made_by_the_database(kind: IdType[Any]) -> None:
    assert id_maker(kind, "database") is None


@pytest.mark.parametrize(
    ("kind", "generator"), [(STRING, "database"), (UUID, "database"), (INT, "uuid7"), (BIGINT, "uuid4")]
)
def test_a_generator_that_makes_no_ids_of_the_kind_is_refused(
    kind: IdType[Any], generator: Literal["database", "uuid7", "uuid4"]
) -> None:
    with pytest.raises(ValueError, match=f"ids of type {kind.name}; use "):
        id_maker(kind, generator)


def test_every_kind_is_found_by_the_word_for_it_in_the_settings() -> None:
    assert {name: kind.name for name, kind in ID_TYPES.items()} == {name: name for name in ID_TYPES}
    assert set(ID_TYPES) == {"string", "int", "bigint", "uuid"}
