"""What revisions are written with.

Frozen: released revisions call these functions, so one may be added and none may be changed. Nothing here imports
the rest of the package, whose types and tables move on while the history stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.types import TypeEngine

OPTIONS: Final = "agent_persistence"

_TYPES: Final[dict[str, Callable[[], TypeEngine[Any]]]] = {
    "string": lambda: sa.String(255, collation="C"),
    "int": sa.Integer,
    "bigint": sa.BigInteger,
    "uuid": sa.Uuid,
}


@dataclass(frozen=True, slots=True)
class RevisionOptions:
    """What a revision knows of the settings; ``env.py`` hands it to ``context.configure``."""

    id_type: str
    user_id_type: str
    lock_timeout_ms: int


def options() -> RevisionOptions:
    """Return what the running revision knows of the settings.

    Raises:
        CommandError: the ``env.py`` that runs us did not hand it over.
    """
    found = op.get_context().opts.get(OPTIONS)
    if not isinstance(found, RevisionOptions):
        raise CommandError("env.py must call context.configure(..., **agent_persistence.migrate.context_options())")
    return found


def id_type() -> TypeEngine[Any]:
    """The column type of thread and message ids."""
    return _TYPES[options().id_type]()


def user_id_type() -> TypeEngine[Any]:
    """The column type of the ids of users."""
    return _TYPES[options().user_id_type]()


def limit_lock_waits() -> None:
    """Give up a lock soon: whoever reads the table queues behind us while we wait for it.

    The migration is tried again, which costs nobody anything. Every revision begins with this call.
    """
    op.execute(f"SET LOCAL lock_timeout = '{options().lock_timeout_ms}ms'")


def create_index_concurrently(
    name: str, table: str, columns: Sequence[str | sa.TextClause], **index_options: Any
) -> None:
    """Build an index while the table is written to. Alone in its revision, for it commits what came before.

    May be run again after it was interrupted: PostgreSQL leaves an unfinished index behind, which takes the name and
    the upkeep of an index and serves no query. The build itself waits without limit, for it blocks nobody; a time
    limit would only leave another unfinished index.
    """
    with op.get_context().autocommit_block():
        op.execute(f"SET lock_timeout = '{options().lock_timeout_ms}ms'")
        op.execute(_drop_unfinished(name))
        op.execute("SET lock_timeout = 0")
        try:
            op.create_index(name, table, columns, if_not_exists=True, postgresql_concurrently=True, **index_options)
        finally:
            op.execute("RESET lock_timeout")


def _drop_unfinished(index: str) -> str:
    quoted = op.get_context().dialect.identifier_preparer.quote_identifier(index)
    literal = quoted.replace("'", "''")
    return (
        "DO $$ BEGIN IF EXISTS ("
        f"SELECT FROM pg_index WHERE indexrelid = to_regclass('{literal}') AND NOT indisvalid"
        f") THEN DROP INDEX {quoted}; END IF; END $$"
    )
