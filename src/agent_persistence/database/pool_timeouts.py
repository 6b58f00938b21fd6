"""Which pool had no free connection: that of this package's engine, or that of an engine of the application."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.pool import QueuePool

from agent_persistence.errors import PoolTimeoutError

# An execution option and not a set of engines: derived engines, as of sessions with an isolation level, inherit it.
OWN_POOL: Final[dict[str, Any]] = {"agent_persistence_own_pool": True}

_OURS: Final = "every connection of the pool is in use; raise PERSISTENCE_POOL_SIZE or release connections sooner"
_OF_THE_HOST: Final = (
    "every connection of the application's engine is in use; release connections sooner, or raise pool_size of its "
    "create_async_engine. A task that holds a session of that engine needs no second connection: join that session "
    "with Persistence.bind, or end it first"
)


def pool_timeout(bind: Engine | Connection | None) -> PoolTimeoutError:
    """Return the error for a pool without a free connection; it names the setting that sizes this pool.

    Args:
        bind: what the connection was wanted from; our own engine if unknown.
    """
    is_ours = bind is None or OWN_POOL.keys() <= bind.get_execution_options().keys()
    return PoolTimeoutError(_OURS) if is_ours else PoolTimeoutError(_OF_THE_HOST, setting="pool_size")


@contextmanager
def limited_by_pool(bind: Callable[[], Engine | Connection]) -> Iterator[None]:
    """Raise ``PoolTimeoutError`` in place of a ``TimeoutError`` of a block that takes a connection, if none was free.

    The application's pool may let callers wait for longer than this package does, so its own error comes too late.
    """
    # Asked before the wait: callers that give up together see the connections that the first of them releases.
    was_free = has_free_connection(bind().engine)
    try:
        yield
    except TimeoutError as error:
        if was_free:
            raise
        raise pool_timeout(bind()) from error


def has_free_connection(engine: Engine) -> bool:
    """Return whether the pool of an engine would give or make a connection now, without waiting for a release."""
    pool = engine.pool
    if not isinstance(pool, QueuePool) or not pool.size():  # a size of 0 is no limit
        return True
    most_over = pool._max_overflow  # noqa: SLF001 - it has no public name; -1 is no limit
    return pool.checkedin() > 0 or most_over < 0 or pool.checkedout() < pool.size() + most_over
