"""Every pair of id types, in ``public`` and in a schema of its own: one history serves them all."""

from __future__ import annotations

import io
import itertools
from contextlib import redirect_stdout
from functools import partial

import pytest
from alembic import command

from agent_persistence import migrate
from agent_persistence.ids import ID_TYPES
from agent_persistence.models import build_models
from agent_persistence.settings import PersistenceSettings
from migration_testing import Database, alembic, check

pytestmark = pytest.mark.slow

COLUMN_TYPES = {"string": "character varying(255)", "int": "integer", "bigint": "bigint", "uuid": "uuid"}

SCHEMAS = [None, "OwnSchema"]


def every_configuration(first: int) -> pytest.MarkDecorator:
    """Every pair of id types, in the one schema and the other by turns."""
    pairs = enumerate(itertools.product(ID_TYPES, ID_TYPES), start=first)
    return pytest.mark.parametrize(
        ("id_type", "user_id_type", "schema"), [(*pair, SCHEMAS[number % 2]) for number, pair in pairs]
    )


@every_configuration(0)
async def test_the_history_goes_up_down_and_up_again(
    database: Database, id_type: str, user_id_type: str, schema: str | None
) -> None:
    settings = database.settings(id_type=id_type, user_id_type=user_id_type, db_schema=schema)

    await migrate.upgrade(settings)
    await check(settings)
    types = await _types_of_ids(database)
    generated = await _generated_columns(database)
    await migrate.downgrade(settings, "base")
    left_over = await database.objects(_quoted(schema))
    await migrate.upgrade(settings)
    await check(settings)

    assert types == {
        "threads.thread_id": COLUMN_TYPES[id_type],
        "threads.user_id": COLUMN_TYPES[user_id_type],
        "states.thread_id": COLUMN_TYPES[id_type],
        "states.state_id": "bigint",
        "messages.thread_id": COLUMN_TYPES[id_type],
        "messages.message_id": COLUMN_TYPES[id_type],
        "messages.seq": "bigint",
    }
    numbered = {"threads.thread_id", "messages.message_id"} if id_type in {"int", "bigint"} else set()
    assert generated == numbered | {"states.state_id", "messages.seq"}
    assert left_over == []


@every_configuration(1)  # a pair is in the other schema here
async def test_models_and_script_make_what_the_history_makes(
    database: Database, id_type: str, user_id_type: str, schema: str | None
) -> None:
    settings = database.settings(id_type=id_type, user_id_type=user_id_type, db_schema=schema)
    await migrate.upgrade(settings)
    by_the_history = await database.dump(_quoted(schema))

    await _empty(database, schema)
    async with database.engine() as engine, engine.begin() as connection:
        metadata = build_models(settings.id_types, schema=schema).metadata
        await connection.run_sync(metadata.create_all)
    by_the_models = await database.dump(_quoted(schema))

    await _empty(database, schema, and_the_schema=True)
    await database.psql(await _script(settings))
    by_the_script = await database.dump(_quoted(schema))

    assert by_the_history == by_the_models
    assert by_the_history == by_the_script
    assert len(by_the_history) > 10


async def _script(settings: PersistenceSettings) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        await alembic(settings, partial(command.upgrade, revision="head", sql=True))
    return output.getvalue()


async def _empty(database: Database, schema: str | None, *, and_the_schema: bool = False) -> None:
    name = _quoted(schema)
    recreate = f"CREATE SCHEMA {name}" if not and_the_schema or schema is None else "SELECT"
    await database.execute(f"DROP SCHEMA {name} CASCADE", recreate)


async def _types_of_ids(database: Database) -> dict[str, str]:
    rows = await database.values(
        """
        SELECT array[relname || '.' || attname, format_type(atttypid, atttypmod)]
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relname IN ('threads', 'states', 'messages') AND relkind = 'r' AND attnum > 0
          AND attname IN ('thread_id', 'user_id', 'state_id', 'message_id', 'seq')
        """
    )
    return dict(rows)


async def _generated_columns(database: Database) -> set[str]:
    """Columns with an identity, or a default on an id."""
    rows = await database.values(
        """
        SELECT relname || '.' || attname
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relname IN ('threads', 'states', 'messages') AND relkind = 'r' AND attnum > 0
          AND (attidentity <> '' OR (atthasdef AND attname LIKE '%\\_id'))
        """
    )
    return set(rows)


def _quoted(schema: str | None) -> str:
    return "public" if schema is None else f'"{schema}"'
