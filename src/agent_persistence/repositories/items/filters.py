"""Filters of items, as conditions on their JSON values.

A filter is taken apart into conditions on single places of the value, all of which must hold. Numbers are compared with
numbers and texts with texts; a value of another type is neither greater nor less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import ge, gt, le, lt
from typing import Any, Final

from sqlalchemy import ARRAY, Column, ColumnElement, Integer, Text, and_, case, collate, func, literal, true
from sqlalchemy.dialects.postgresql import JSONB

from agent_persistence.encoding.exact_json import EncodedJSON, encode_json
from agent_persistence.errors import InvalidInputError
from agent_persistence.models import ExactJSON

_Path = tuple[str, ...]

_FIELD: Final = "filter"
_ORDERS: Final[dict[str, Callable[[Any, Any], ColumnElement[bool]]]] = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
_EQUALITIES: Final = ("$eq", "$ne")


def matches(value: Column[Any], wanted: Mapping[str, Any]) -> ColumnElement[bool]:
    """Return the condition that a JSON value matches a filter.

    Args:
        value: the column.
        wanted: an item of JSON or a dict of operators for each field. Within an object, only the fields that the filter
            names count; ``None`` also matches a field that is missing.

    Raises:
        InvalidInputError: the filter has an unknown operator, or one that cannot compare its operand.
    """
    encode_json(dict(wanted), _FIELD)  # refused as a whole, with the place of what is no JSON
    return and_(true(), *(condition for name in wanted for condition in _conditions(value, (name,), wanted[name])))


def _conditions(value: Column[Any], path: _Path, wanted: Any) -> Iterator[ColumnElement[bool]]:
    at = value.op("#>", return_type=JSONB())(literal(list(path), ARRAY(Text())))
    if isinstance(wanted, dict) and any(name.startswith("$") for name in wanted):
        for operator, operand in wanted.items():
            yield _compared(at, operator, operand)
    elif isinstance(wanted, dict):
        yield func.jsonb_typeof(at) == "object"
        for name, item in wanted.items():
            yield from _conditions(value, (*path, name), item)
    elif isinstance(wanted, list):
        yield _length(at) == len(wanted)
        for index, item in enumerate(wanted):
            yield from _conditions(value, (*path, str(index)), item)
    else:
        yield _is_equal(at, wanted)


def _compared(at: ColumnElement[Any], operator: str, operand: Any) -> ColumnElement[bool]:
    if operator in _EQUALITIES:
        is_equal = _is_equal(at, operand)
        return is_equal if operator == "$eq" else ~is_equal
    if operator not in _ORDERS:
        known = ", ".join((*_EQUALITIES, *_ORDERS))
        raise InvalidInputError(_FIELD, f"has an unknown operator; use {known}, or a name that begins without $")
    is_ordered = _ORDERS[operator]
    if isinstance(operand, str):
        # By code point, as Python compares texts, whatever the collation of the database.
        text = collate(at.op("#>>", return_type=Text())(literal([], ARRAY(Text()))), "C")
        return _of_type(at, "string", is_ordered(text, literal(operand, Text())))
    if isinstance(operand, int | float) and not isinstance(operand, bool):
        return _of_type(at, "number", is_ordered(at, _json(operand)))
    raise InvalidInputError(_FIELD, f"compares by {operator} with a {type(operand).__name__}; give a number or a text")


def _is_equal(at: ColumnElement[Any], wanted: Any) -> ColumnElement[bool]:
    # As JSON: 1 equals 1.0, and true is no number. Never NULL, so that it can be negated.
    found = func.coalesce(at, _json_null()) if wanted is None else at
    return found.is_not_distinct_from(_json_null() if wanted is None else _json(wanted))


def _of_type(at: ColumnElement[Any], kind: str, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return (func.jsonb_typeof(at) == kind) & condition


def _length(at: ColumnElement[Any]) -> ColumnElement[Any]:
    # CASE, for the function fails on what is no array.
    return case((func.jsonb_typeof(at) == "array", func.jsonb_array_length(at, type_=Integer())))


def _json(value: Any) -> ColumnElement[Any]:
    return literal(EncodedJSON(encode_json(value, _FIELD)), ExactJSON())


def _json_null() -> ColumnElement[Any]:
    return literal(EncodedJSON(b"null"), ExactJSON())
