"""The dataclass decorator of this package: values that are not changed once they are made."""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a dataclass that is frozen for type checkers only.

    ``dataclass(frozen=True)`` lost: creating an instance takes four to six times as long, and a page has up to a
    thousand of them.
    """
    return dataclass(slots=True)(cls)
