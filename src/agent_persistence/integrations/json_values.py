"""Values of frameworks as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from agent_persistence.errors import InvalidInputError


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
        InvalidInputError: a part of it has no JSON form; ``field`` names the value.
    """
    with json_errors(field):
        return to_jsonable_python(value, inf_nan_mode="constants")
