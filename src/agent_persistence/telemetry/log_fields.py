"""The fields of a log line that say which operation it is about."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from agent_persistence.telemetry.identities import Identities
from agent_persistence.telemetry.operation import Called, Operation


def fields_of(
    operation: Operation | None, identities: Identities, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """Return ``operation``, ``thread_id``, ``owner``, ``duration_ms`` and ``batch``, as far as they are known.

    A statement may serve several callers: then it is what they have in common, and the time since the first of them
    called.

    Args:
        operation: what the current task works for; ``None`` if durations are off.
        identities: shows ids.
        clock: the monotonic clock by which operations are measured.
    """
    served = [] if operation is None else [*_served(operation)]
    if not served:
        return {}
    fields = {
        "operation": _common(one.name for one in served),
        "thread_id": identities.thread(_common(one.thread_id for one in served)),
        "owner": identities.owner(_common(one.owner for one in served)),
        "duration_ms": round((clock() - min(one.began for one in served)) * 1000, 1),
        "batch": len(served),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _served(operation: Operation) -> Iterator[Called]:
    """Yield the calls of all callers: a batch may serve a load, which serves several."""
    if (called := operation.called()) is not None:
        yield called
    for caller in operation.callers or ():
        if caller is not None:
            yield from _served(caller)


def _common(values: Iterable[Any]) -> Any:
    first, *others = values
    return first if all(other == first for other in others) else None
