"""Threads, messages and states of AI agents in PostgreSQL, with a Redis cache of latest states."""

from importlib import import_module
from typing import TYPE_CHECKING

from agent_persistence import errors
from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.checkpointer import Capability, Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.errors import (
    CheckpointingDisabledError,
    ClosedError,
    CommitUnknownError,
    ConflictError,
    CorruptRowError,
    DatabaseError,
    EmbeddedServerError,
    ForkedError,
    IdempotencyConflictError,
    IdTypeMismatchError,
    InvalidIndexError,
    InvalidInputError,
    LockTimeoutError,
    MessageNotFoundError,
    MigrationLockTimeoutError,
    MissingExtraError,
    MissingRightsError,
    MisuseError,
    NotFoundError,
    NotMigratedError,
    PersistenceError,
    PoolerError,
    PoolTimeoutError,
    RunInProgressError,
    SchemaConflictError,
    SchemaError,
    SequenceBehindError,
    SettingsError,
    StateConflictError,
    StatementTimeoutError,
    StateNotFoundError,
    SyncInLoopError,
    ThreadExistsError,
    ThreadNotFoundError,
    UnavailableError,
    UniqueConflictError,
    UnitOfWorkInUseError,
    UnsavedStatesError,
    WrongLoopError,
)
from agent_persistence.ids import BIGINT, INT, STRING, UUID, IdType, IdTypes, uuid7
from agent_persistence.models import MessageMixin, Models, StateMixin, ThreadMixin, build_models
from agent_persistence.operations.cache_audit import CacheAudit
from agent_persistence.operations.probes import Health, Readiness
from agent_persistence.operations.run_claims import RunClaim
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import (
    ANY_USER,
    UNSET,
    AnyUser,
    ItemKey,
    ItemRecord,
    MessageRecord,
    MessageRole,
    NewItem,
    NewMessage,
    NewThread,
    Page,
    StateRecord,
    StateStream,
    ThreadRecord,
)
from agent_persistence.repositories import PreparedThread
from agent_persistence.settings import PersistenceSettings
from agent_persistence.shared import close_shared_persistence, replaced_shared_persistence, shared_persistence
from agent_persistence.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from agent_persistence import migrate as migrate
else:

    def __getattr__(name):
        """Import ``migrate`` when it is first used, because it imports Alembic; find errors by their names of 0.1.0."""
        if name == "migrate":
            return import_module("agent_persistence.migrate")
        return errors.__getattr__(name, stacklevel=3)


__all__ = [
    "ANY_USER",
    "BIGINT",
    "INT",
    "STRING",
    "UNSET",
    "UUID",
    "AnyUser",
    "CacheAudit",
    "Capability",
    "Checkpoint",
    "CheckpointLimits",
    "Checkpointer",
    "CheckpointingDisabledError",
    "ClosedError",
    "CommitUnknownError",
    "ConflictError",
    "CorruptRowError",
    "DatabaseError",
    "EmbeddedServerError",
    "ForkedError",
    "Health",
    "IdType",
    "IdTypeMismatchError",
    "IdTypes",
    "IdempotencyConflictError",
    "InvalidIndexError",
    "InvalidInputError",
    "ItemKey",
    "ItemRecord",
    "LockTimeoutError",
    "MessageMixin",
    "MessageNotFoundError",
    "MessageRecord",
    "MessageRole",
    "Metrics",
    "MigrationLockTimeoutError",
    "MissingExtraError",
    "MissingRightsError",
    "MisuseError",
    "Models",
    "NewItem",
    "NewMessage",
    "NewThread",
    "NotFoundError",
    "NotMigratedError",
    "Page",
    "Persistence",
    "PersistenceError",
    "PersistenceSettings",
    "PoolTimeoutError",
    "PoolerError",
    "PreparedThread",
    "Readiness",
    "RunClaim",
    "RunInProgressError",
    "SchemaConflictError",
    "SchemaError",
    "SequenceBehindError",
    "SettingsError",
    "StateConflictError",
    "StateMixin",
    "StateNotFoundError",
    "StateRecord",
    "StateStream",
    "StatementTimeoutError",
    "SyncInLoopError",
    "ThreadExistsError",
    "ThreadMixin",
    "ThreadNotFoundError",
    "ThreadRecord",
    "ThreadSummary",
    "UnavailableError",
    "UniqueConflictError",
    "UnitOfWork",
    "UnitOfWorkInUseError",
    "UnsavedStatesError",
    "WrongLoopError",
    "build_models",
    "close_shared_persistence",
    "replaced_shared_persistence",
    "shared_persistence",
    "uuid7",
]
