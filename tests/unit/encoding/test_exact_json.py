import copy
import enum
import math
import pickle
import uuid
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest

from agent_persistence.encoding.exact_json import UNDECODABLE, EncodedJSON, decode_json, encode_json, sanitize
from agent_persistence.errors import InvalidInputError

CANARY = "canary-4711"


class Colour(enum.StrEnum):
    RED = CANARY


class Level(enum.IntEnum):
    LOW = 1


class Kind(enum.Enum):
    NONE = None


class Text(str):
    __slots__ = ()


class Score(float):
    pass


class EqualToAll:
    __hash__ = None  # type: ignore[assignment]  # an object that claims to be equal to what comes back

    def __eq__(self, other: object) -> bool:
        return True


@dataclass
class Point:
    x: int = 1


Pair = namedtuple("Pair", "a b")


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def deep_dict(levels: int) -> Any:
    return orjson.loads('{"a":' * levels + "1" + "}" * levels)


CYCLE: list[Any] = []
CYCLE.extend([CYCLE, CYCLE])


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        1,
        -1,
        2**63 - 1,
        1 - 2**63,
        0.0,
        -0.0,
        1.0,
        1e15,
        1e16,
        -1e16,
        123456789012345680.0,
        1e23,
        1.7976931348623157e308,
        5e-324,
        1e-7,
        "",
        "é😀\u2028 \x01\x1f\x7f\r\n\t\\u0000 \x1b[0m",
        "0.00",
        "0.00000000000000000000",
        [],
        {},
        {"": {"": []}},
        [-0.0, "[0.00000000000000000000]", ' 0.00000000000000000000,"\\', 0.0, 0.001, 10.0, 1e300],
        {"a": -0.0, "0.00000000000000000000": ":0.00000000000000000000,", "b": {"c": [1e16]}},
        nested(200),
        deep_dict(200),
        [[]] * 300,
    ],
)
def test_a_value_comes_back_with_its_types_and_signs(value: Any) -> None:
    assert repr(decode_json(encode_json(value, "state"))) == repr(value)


def test_text_may_be_read_from_str_and_from_bytes() -> None:
    text = '["é", 0.00000000000000000000]'
    assert decode_json(text) == decode_json(text.encode()) == ["é", 0]


def test_floats_are_written_so_that_jsonb_prints_floats() -> None:
    assert encode_json([1e23, -1.5e17, -0.0, 0.0, 1e15, 1e-7], "state") == (
        b"[100000000000000000000000.0,-150000000000000000.0,0.00000000000000000000,0.0,1000000000000000.0,1e-7]"
    )


@pytest.mark.parametrize(
    ("value", "where", "reason"),
    [
        (math.nan, "state", "NaN"),
        ({"messages": [1, 2, 3, {"score": math.inf}]}, "state.messages[3].score", "infinite"),
        ({"a": {"b c": [-math.inf]}}, "state.a.<key>[0]", "infinite"),
        ({"a": [{}, [1]], "b": [{"c": 1}, {"d": [0, math.nan]}]}, "state.b[1].d[1]", "NaN"),
        ({"x" * 41: {CANARY + " ": 2**63}}, "state.<key>.<key>", "64 bits"),
        ([-(2**63)], "state[0]", "64 bits"),
        ([10**30], "state[0]", "64 bits"),
        ({"a": {1: CANARY}}, "state.a", "key of type int"),
        ({"a": {None: CANARY}}, "state.a", "key of type NoneType"),
        ({"a": {Text(CANARY): 1}}, "state.a", "key of type Text"),
        ({"a": {Colour.RED: 1}}, "state.a", "key of type Colour"),
        ({"a": {f"{CANARY}\0": 1}}, "state.a", "key that holds a NUL"),
        ({"a": {f"{CANARY}\udc00": 1}}, "state.a", "key that holds a lone surrogate"),
        ({"a": f"{CANARY}\0"}, "state.a", "NUL"),
        ({"a": f"{CANARY}\ud800"}, "state.a", "lone surrogate"),
        ({"a": f"{CANARY}\ud83d\ude00"}, "state.a", "lone surrogate"),
        ({"a": (CANARY,)}, "state.a", "type tuple"),
        ({"a": Pair(1, CANARY)}, "state.a", "type Pair"),
        ({"a": {CANARY}}, "state.a", "type set"),
        ({"a": CANARY.encode()}, "state.a", "type bytes"),
        ({"a": datetime(2026, 1, 2, tzinfo=UTC)}, "state.a", "type datetime"),
        ({"a": Decimal("4711")}, "state.a", "type Decimal"),
        ({"a": uuid.UUID(int=4711)}, "state.a", "type UUID"),
        ({"a": Colour.RED}, "state.a", "type Colour"),
        ({"a": Level.LOW}, "state.a", "type Level"),
        ({"a": Kind.NONE}, "state.a", "type Kind"),
        ({"a": Text(CANARY)}, "state.a", "type Text"),
        ({"a": Score(4711)}, "state.a", "type Score"),
        ({"a": OrderedDict(a=CANARY)}, "state.a", "type OrderedDict"),
        ({"a": UserDict(a=CANARY)}, "state.a", "type UserDict"),
        ({"a": Point(4711)}, "state.a", "type Point"),
        ({"a": EqualToAll()}, "state.a", "type EqualToAll"),
        ({"a": orjson.Fragment(b"4711")}, "state.a", "type Fragment"),
        ({"a": EncodedJSON(b"4711")}, "state.a", "type EncodedJSON"),
        ({"a": UNDECODABLE}, "state.a", "type Undecodable"),
        (nested(201), "state", "deeper than 200 levels"),
        (nested(5000), "state", "deeper than 200 levels"),
        ({"a": CYCLE}, "state", "deeper than 200 levels"),
    ],
)
def test_a_value_that_would_not_come_back_is_refused_by_its_path(value: Any, where: str, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_json(value, "state")

    assert caught.value.field == where
    assert reason in caught.value.reason
    assert "4711" not in str(caught.value)


def test_a_value_is_refused_when_its_json_is_larger_than_the_limit() -> None:
    value = ["é" * 10]

    assert len(encode_json(value, "state", max_bytes=24)) == 24
    with pytest.raises(InvalidInputError, match=r"^state: takes 24 bytes as JSON, the limit is 23$"):
        encode_json(value, "state", max_bytes=23)


def test_the_limit_counts_the_bytes_that_are_stored() -> None:
    with pytest.raises(InvalidInputError, match="takes 311 bytes"):
        encode_json(1e308, "state", max_bytes=310)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**400, -(10**4299)])
def test_an_int_beyond_64_bits_is_read_exactly(number: int) -> None:
    assert decode_json(f'{{"a": [{number}]}}') == {"a": [number]}


@pytest.mark.parametrize(
    "text",
    ["1" + "0" * 5000, "[NaN]", "[-Infinity]", "[1,]", "", '"\ud800', b'"\xff"', "[" * 100_000, "[0.00"],
)
def test_text_that_cannot_be_read_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"line 1|surrogates not allowed"):
        decode_json(text)


def test_an_encoded_value_does_not_show_itself() -> None:
    assert CANARY not in repr(EncodedJSON(CANARY.encode()))


def test_there_is_one_undecodable() -> None:
    assert copy.deepcopy([UNDECODABLE])[0] is UNDECODABLE
    assert pickle.loads(pickle.dumps(UNDECODABLE)) is UNDECODABLE  # noqa: S301 - our own bytes


def test_sanitizing_replaces_only_what_cannot_be_stored() -> None:
    value = {"a\0": ["\ud800x", math.nan, math.inf, -math.inf, -0.0, 1.5], "b": {"c": [None, True, 7, "\x1b é😀"]}}

    clean = sanitize(value)

    assert repr(clean) == repr(
        {"a\ufffd": ["\ufffdx", None, None, None, -0.0, 1.5], "b": {"c": [None, True, 7, "\x1b é😀"]}}
    )
    assert encode_json(clean, "state")
    assert "a\0" in value


def test_sanitizing_works_on_text() -> None:
    assert sanitize("a\0b\udfff") == "a\ufffdb\ufffd"


def test_sanitizing_leaves_other_objects_to_the_encoder() -> None:
    other = Point()

    assert sanitize([other, (1,)]) == [other, (1,)]


@pytest.mark.parametrize("value", [nested(100_000), CYCLE], ids=["deep", "cycle"])
def test_sanitizing_refuses_what_never_ends(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^state: is nested deeper"):
        sanitize(value, "state")
