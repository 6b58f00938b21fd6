"""Errors in places that an application brings them to."""

from __future__ import annotations

import copy
import pickle
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from agent_persistence import errors
from agent_persistence.errors import MissingExtraError, PersistenceError, StateConflictError
from agent_persistence.integrations.checkpointing.async_methods import NoSuchMessageError

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "SettingsError": ("PERSISTENCE_POOL_SIZE", "must be a number"),
    "InvalidInputError": ("thread_id", "must be text"),
    "ThreadNotFoundError": (uuid.UUID(int=7),),
    "MessageNotFoundError": ("t", 7),
    "StateNotFoundError": ("t", 7),
    "ThreadExistsError": ("t",),
    "IdempotencyConflictError": ("t", "m"),
    "RunInProgressError": ("t",),
    "StateConflictError": ("t", 1, 2),
    "UniqueConflictError": ("uq_titles",),
    "CorruptRowError": ("messages", ("t", "m"), "meta"),
    "UnsavedStatesError": ([{"a": 1}],),
    "ForkedError": (7,),
    "PoolTimeoutError": ("busy",),
    "DatabaseError": ("refused",),
    "NotMigratedError": ("ap0001", "ap0008"),
    "IdTypeMismatchError": ("PERSISTENCE_ID_TYPE", "uuid", "string"),
    "SchemaConflictError": ("public", ["threads"], "use another schema"),
    "MigrationLockTimeoutError": (7.5,),
    "InvalidIndexError": (["ix_a"],),
    "MissingRightsError": ("app", "GRANT"),
    "SequenceBehindError": (["states.state_id"], "SELECT 1"),
    "MissingExtraError": ("cli",),
}
COPIES: list[Callable[[PersistenceError], PersistenceError]] = [
    *(lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol)) for protocol in range(6)),  # noqa: S301
    copy.copy,
    copy.deepcopy,
]


def all_errors() -> Iterator[PersistenceError]:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, PersistenceError):
            text = () if "__init__" in vars(kind) and name not in ARGUMENTS else ("some text",)
            yield kind(*ARGUMENTS.get(name, text))
    yield NoSuchMessageError("t", 7)
    error = errors.DatabaseError("refused", sqlstate="23505", constraint="uq_titles")
    error.add_note("a note of the host")
    yield error


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: type(error).__name__)
def test_an_error_survives_pickle_and_copy_with_text_and_attributes(error: PersistenceError) -> None:
    for copied in (make(error) for make in COPIES):
        assert type(copied) is type(error)
        assert (str(copied), repr(copied), copied.args) == (str(error), repr(error), error.args)
        assert vars(copied) == vars(error)
        assert (copied.retryable, copied.committed) == (error.retryable, error.committed)


def conflict() -> None:
    raise StateConflictError("t", 1, 2)


def test_an_error_crosses_a_process_pool() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(StateConflictError) as caught:
        pool.submit(conflict).result()

    assert (caught.value.expected, caught.value.found) == (1, 2)


def test_an_extra_that_is_missing_is_an_import_error_after_a_copy_too() -> None:
    assert isinstance(copy.copy(MissingExtraError("cli")), ImportError)
