"""What this package needs of a tracer. The one of OpenTelemetry is in ``integrations.opentelemetry``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Attribute = str | int | float | bool


class Span(Protocol):
    """A span that is recorded."""

    def set(self, name: str, value: Attribute) -> None:
        """Set an attribute."""

    def end(self, error_type: str) -> None:
        """End it; an empty text if there was no error. The error itself is never recorded: it may quote a row."""


class Tracer(Protocol):
    """Begins spans. Each method returns ``None`` if nobody records it, and nothing more is done then."""

    def operation(self, name: str) -> Span | None:
        """Begin the span of an operation, below the caller's current span."""

    def call(self, name: str, callers: Sequence[Span], attributes: dict[str, Attribute]) -> Span | None:
        """Begin the span of a call to a server: below the span of its caller, or linked to those of several."""
