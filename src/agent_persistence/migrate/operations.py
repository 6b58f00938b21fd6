"""Functions for revisions.

Frozen: released revisions call them, so functions may be added but not changed. They import nothing of the package,
whose types and tables change while the history stays as it is.
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
    """The settings that a revision needs; ``env.py`` passes them to ``context.configure``."""

    id_type: str
    user_id_type: str
    lock_timeout_ms: int


def options() -> RevisionOptions:
    """Return the settings of the running revision.

    Raises:
        CommandError: ``env.py`` did not pass them.
    """
    found = op.get_context().opts.get(OPTIONS)
    if not isinstance(found, RevisionOptions):
        raise CommandError("env.py must call context.configure(..., **agent_persistence.migrate.context_options())")
    return found


def id_type() -> TypeEngine[Any]:
    """Return the column type of thread and message ids."""
    return _TYPES[options().id_type]()


def user_id_type() -> TypeEngine[Any]:
    """Return the column type of user ids."""
    return _TYPES[options().user_id_type]()


def limit_lock_waits() -> None:
    """Limit the wait for a lock: readers of the table queue behind the migration while it waits.

    The migration is retried, which costs the application nothing. Every revision begins with this call.
    """
    op.execute(f"SET LOCAL lock_timeout = '{options().lock_timeout_ms}ms'")


def create_index_concurrently(
    name: str, table: str, columns: Sequence[str | sa.TextClause], **index_options: Any
) -> None:
    """Build an index while the table is written to. Alone in its revision, because it commits what came before.

    It can be repeated after an interruption: PostgreSQL leaves an invalid index, which takes the name and the upkeep of
    an index and serves no query. The build waits without limit, because it blocks no one; a time limit would only leave
    another invalid index.
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
