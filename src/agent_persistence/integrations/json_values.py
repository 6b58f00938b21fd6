"""Values of frameworks as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from agent_persistence.errors import InvalidInputError

_DOUBLE_KEY: Final = "has two keys that are one in JSON, such as 1 and '1'; one of their values would be lost"


@contextmanager
def json_errors(field: str) -> Iterator[None]:
    """Raise ``InvalidInputError`` for ``field`` if pydantic or an encoder meets a value that has no JSON form."""
    try:
        yield
    except InvalidInputError:
        raise
    # Values that hold themselves, bytes that are no text, ints of more than 4,300 digits, and depth.
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise InvalidInputError(field, "cannot be written as JSON") from error


def jsonable(value: Any, field: str) -> Any:
    """Convert a value to JSON types.

    Raises:
        InvalidInputError: a part of it has no JSON form, or two keys have the same one; ``field`` names the value.
    """
    with json_errors(field):
        written = to_jsonable_python(value, inf_nan_mode="constants")
        if _has_lost_a_key(value, written):
            raise InvalidInputError(field, _DOUBLE_KEY)
        return written


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict, for ``object_pairs_hook``.

    Raises:
        ValueError: two have the same key.
    """
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(_DOUBLE_KEY)
    return made


def plain(value: Any, field: str, *, tuples: bool = False) -> Any:
    """Return an equal value without classes that are derived from JSON's types: texts, numbers, lists and dicts.

    Args:
        value: the value; what is of other types stays as it is.
        field: names the value in errors.
        tuples: return tuples as lists.

    Raises:
        InvalidInputError: the value holds itself, or is nested too deep.
    """
    try:
        return _plain(value, tuples=tuples)
    except RecursionError:
        raise InvalidInputError(field, "holds itself, or is nested too deep") from None


def _has_lost_a_key(value: Any, written: Any) -> bool:
    if isinstance(value, dict) and isinstance(written, dict):
        return len(value) != len(written) or any(map(_has_lost_a_key, value.values(), written.values()))
    if isinstance(value, list | tuple) and isinstance(written, list):
        return any(map(_has_lost_a_key, value, written))
    return False


def _plain(value: Any, *, tuples: bool) -> Any:
    if isinstance(value, dict):
        return {_plain(key, tuples=tuples): _plain(item, tuples=tuples) for key, item in value.items()}
    if isinstance(value, list) or (tuples and isinstance(value, tuple)):
        return [_plain(item, tuples=tuples) for item in value]
    if isinstance(value, bool):
        return value
    # By the methods of the types themselves: a text that is an enum's member prints as its name.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else value
