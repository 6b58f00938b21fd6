"""Filters of items, as conditions on their JSON values.

A filter is taken apart into conditions on single places of the value, all of which must hold. Numbers are compared with
numbers and texts with texts; a value of another type is neither greater nor less.

Filters of one shape make one statement: the kinds of the conditions are its SQL, the places and what is compared there
its parameters. Building a statement costs more than running it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import ge, gt, le, lt
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Column,
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    cast,
    collate,
    func,
    literal_column,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

from agent_persistence.encoding.exact_json import EncodedJSON, encode_json
from agent_persistence.errors import InvalidInputError
from agent_persistence.models import ExactJSON

Kind = tuple[str, str]
"""An operator, or ``is`` and ``length``; and the type of what is compared."""
Shape = tuple[Kind, ...]

_Path = tuple[str, ...]

_FIELD: Final = "filter"
_ORDERS: Final[dict[str, Callable[[Any, Any], ColumnElement[bool]]]] = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
_EQUALITIES: Final = ("$eq", "$ne")
_IS_OBJECT: Final = ("is", "object")
_LENGTH: Final = ("length", "array")
_NULL: Final = literal_column("'null'::jsonb", JSONB())


class Filter(NamedTuple):
    """A filter that was taken apart.

    Attributes:
        shape: the kinds of its conditions.
        values: the parameters of a statement with ``matches(shape)``.
    """

    shape: Shape
    values: dict[str, Any]


class _Condition(NamedTuple):
    kind: Kind
    path: _Path
    operand: Any = None


def taken_apart(wanted: Mapping[str, Any]) -> Filter:
    """Take a filter apart.

    Args:
        wanted: an item of JSON or a dict of operators for each field. Within an object, only the fields that the filter
            names count; ``None`` also matches a field that is missing.

    Raises:
        InvalidInputError: the filter has an unknown operator, or one that cannot compare its operand.
    """
    if not wanted:
        return Filter((), {})
    encode_json(dict(wanted), _FIELD)  # refused as a whole, with the place of what is no JSON
    conditions = [condition for name, item in wanted.items() for condition in _conditions((name,), item)]
    values: dict[str, Any] = {}
    for place, condition in enumerate(conditions):
        values |= {f"path_{place}": _array(condition.path), f"operand_{place}": condition.operand}
    return Filter(tuple(condition.kind for condition in conditions), values)


def matches(value: Column[Any], shape: Shape) -> ColumnElement[bool]:
    """Return the condition that a JSON value matches a filter of this shape.

    Args:
        value: the column.
        shape: of the filter, whose ``values`` are the parameters.
    """
    return and_(true(), *(_condition(value, kind, place) for place, kind in enumerate(shape)))


def _conditions(path: _Path, wanted: Any) -> Iterator[_Condition]:
    if isinstance(wanted, dict) and any(name.startswith("$") for name in wanted):
        for operator, operand in wanted.items():
            yield _compared(path, operator, operand)
    elif isinstance(wanted, dict):
        yield _Condition(_IS_OBJECT, path)
        for name, item in wanted.items():
            yield from _conditions((*path, name), item)
    elif isinstance(wanted, list):
        yield _Condition(_LENGTH, path, len(wanted))
        for index, item in enumerate(wanted):
            yield from _conditions((*path, str(index)), item)
    else:
        yield _compared(path, "$eq", wanted)


def _compared(path: _Path, operator: str, operand: Any) -> _Condition:
    if operator in _EQUALITIES:
        return _Condition((operator, "null"), path) if operand is None else _json(path, (operator, "json"), operand)
    if operator not in _ORDERS:
        known = ", ".join((*_EQUALITIES, *_ORDERS))
        raise InvalidInputError(_FIELD, f"has an unknown operator; use {known}, or a name that begins without $")
    if isinstance(operand, str):
        return _Condition((operator, "string"), path, operand)
    if isinstance(operand, int | float) and not isinstance(operand, bool):
        return _json(path, (operator, "number"), operand)
    raise InvalidInputError(_FIELD, f"compares by {operator} with a {type(operand).__name__}; give a number or a text")


def _json(path: _Path, kind: Kind, operand: Any) -> _Condition:
    return _Condition(kind, path, EncodedJSON(encode_json(operand, _FIELD)))


def _condition(value: Column[Any], kind: Kind, place: int) -> ColumnElement[bool]:
    operator, compared = kind
    # As a text: an array of arrays, which several callers would give, has no rows of arrays.
    path = cast(bindparam(f"path_{place}", type_=Text()), ARRAY(Text()))
    at = value.op("#>", return_type=JSONB())(path)
    operand = _operand(compared, place)
    if kind == _IS_OBJECT:
        return _is_of_type(at, compared)
    if kind == _LENGTH:
        # CASE, for the function fails on what is no array.
        return case((_is_of_type(at, compared), func.jsonb_array_length(at, type_=Integer()))) == operand
    if operator in _EQUALITIES:
        # As JSON: 1 equals 1.0, and true is no number. Never NULL, so that it can be negated.
        found = func.coalesce(at, _NULL) if compared == "null" else at
        is_equal = found.is_not_distinct_from(_NULL if compared == "null" else operand)
        return is_equal if operator == "$eq" else ~is_equal
    # By code point, as Python compares texts, whatever the collation of the database.
    text = collate(at.op("#>>", return_type=Text())(literal_column("'{}'", ARRAY(Text()))), "C")
    return _is_of_type(at, compared) & _ORDERS[operator](text if compared == "string" else at, operand)


def _operand(compared: str, place: int) -> BindParameter[Any]:
    kinds: dict[str, Any] = {"string": Text(), "array": Integer()}
    return bindparam(f"operand_{place}", type_=kinds.get(compared) or ExactJSON())


def _is_of_type(at: ColumnElement[Any], kind: str) -> ColumnElement[bool]:
    is_of_type: ColumnElement[bool] = func.jsonb_typeof(at) == literal_column(f"'{kind}'")
    return is_of_type


def _array(labels: _Path) -> str:
    """Return texts as PostgreSQL reads an array of them."""
    quoted = (label.replace("\\", "\\\\").replace('"', '\\"') for label in labels)
    return "{" + ",".join(f'"{label}"' for label in quoted) + "}"
