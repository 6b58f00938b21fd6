"""Values that nobody changes once they are made."""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a dataclass that is frozen for type checkers.

    They find every change of it. To make one that is frozen at run time as well takes four to six times as long, and a
    page has up to a thousand of them.
    """
    return dataclass(slots=True)(cls)
