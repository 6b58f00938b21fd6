"""The column type against a real server: what went in comes out, on every way a statement can take."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    ARRAY,
    Column,
    Connection,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    bindparam,
    column,
    func,
    insert,
    literal_column,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from agent_persistence.encoding.exact_json import UNDECODABLE, EncodedJSON, encode_json
from agent_persistence.errors import InvalidInputError
from agent_persistence.models.json_type import ExactJSON
from agent_persistence.persistence import Persistence
from agent_persistence.testing.contract import exact

NEGATIVE_ZERO = "0." + 20 * "0"  # as it is written
AWKWARD = {"b": [1e23, -0.0, 1, 1.0, True, None, 5e-324, f"é\u2028 {NEGATIVE_ZERO},", 2**63 - 1], "a": {"": -1e16}}


class Base(DeclarativeBase):
    pass


class Document(Base):
    __tablename__ = "documents"
    __table_args__ = {"prefixes": ["TEMPORARY"]}  # noqa: RUF012 - the mapper's own attribute

    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[Any] = mapped_column(ExactJSON)
    meta: Mapped[Any] = mapped_column(ExactJSON, nullable=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("documents.id"))


documents: Any = Document.__table__


@pytest_asyncio.fixture
async def engine(persistence: Persistence[str, str]) -> AsyncIterator[AsyncEngine]:
    """A plain engine, as a host would make it: the limits of ours would end the long transaction of all examples."""
    engine = create_async_engine(persistence.engine.url)
    yield engine
    await engine.dispose()


async def _with_documents(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as connection:
        await connection.run_sync(Base.metadata.create_all, checkfirst=False)
        yield connection


@pytest_asyncio.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection with an empty table, which goes with its transaction."""
    async for connection in _with_documents(engine):
        yield connection


async def stored(connection: AsyncConnection, data: Any) -> Any:
    """Insert a value and read it back in statements of their own."""
    key = await connection.scalar(insert(documents).values(data=data).returning(documents.c.id))
    return await connection.scalar(select(documents.c.data).where(documents.c.id == key))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NUMBER_TEXT = st.sampled_from(
    [
        "0.00",
        "-0.0",
        "\\",
        '"',
        "1e23",
        "{\\u0000",
        *(text.format(NEGATIVE_ZERO) for text in ("{}", "[{}]", ': {},"', " {}}}")),
    ]
)
FLOATS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(1e14, 1e20)
    | st.integers(-(2**70), 2**70).map(float)
    | st.sampled_from([0.0, -0.0, 1e16, -1e16, 1e22, 1e23, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308])
)
SCALARS = st.none() | st.booleans() | st.integers(1 - 2**63, 2**63 - 1) | FLOATS | TEXT | NUMBER_TEXT
KEYS = TEXT | NUMBER_TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=30)


@given(value=JSON)
@example(value=AWKWARD)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_accepted_value_comes_back_exactly(connection: AsyncConnection, value: Any) -> None:
    encoded = EncodedJSON(encode_json(value, "data"))

    assert exact(await stored(connection, encoded)) == exact(value)


async def test_a_value_that_was_not_encoded_before_is_encoded_by_the_type(connection: AsyncConnection) -> None:
    assert exact(await stored(connection, AWKWARD)) == exact(AWKWARD)


async def test_sql_sees_plain_numbers(connection: AsyncConnection) -> None:
    await connection.execute(insert(documents).values(data=[1e23, -0.0]))

    same = await connection.scalar(text("""SELECT data = '[100000000000000000000000, 0]' FROM documents"""))

    assert same is True


async def test_what_others_wrote_is_read_exactly_where_python_can(connection: AsyncConnection) -> None:
    await connection.execute(text("INSERT INTO documents (data) VALUES ('[18446744073709551616, 1e400, 1.50, 2.0]')"))

    assert exact(await connection.scalar(select(documents.c.data))) == exact([2**64, 10**400, 1.5, 2.0])


async def test_a_row_that_cannot_be_decoded_leaves_the_others_readable(connection: AsyncConnection) -> None:
    await connection.execute(
        text("""INSERT INTO documents (id, data, meta) VALUES (1, '"a"', '1'), (2, '[1e5000]', '2'), (3, '"c"', '3')""")
    )

    rows = (await connection.execute(select(documents.c.data, documents.c.meta).order_by(documents.c.id))).all()

    assert [tuple(row) for row in rows] == [("a", 1), (UNDECODABLE, 2), ("c", 3)]


async def test_none_is_sql_null_and_an_encoded_null_is_a_json_one(connection: AsyncConnection) -> None:
    await connection.execute(
        insert(documents),
        [{"data": 1, "meta": None}, {"data": 2, "meta": EncodedJSON(b"null")}, {"data": 3, "meta": {}}],
    )

    statement = select(documents.c.meta.is_(None), documents.c.meta).order_by(documents.c.data)
    rows = (await connection.execute(statement)).all()

    assert [tuple(row) for row in rows] == [(True, None), (False, None), (False, {})]


async def test_many_rows_go_in_and_come_back_from_one_statement(connection: AsyncConnection) -> None:
    values = [AWKWARD, [-0.0], 1e23, "0.00", {"x": 1.0}]

    returned = await connection.execute(
        insert(documents).returning(documents.c.data, sort_by_parameter_order=True), [{"data": v} for v in values]
    )

    assert [exact(data) for data in returned.scalars()] == [exact(value) for value in values]


async def test_arrays_of_values_can_be_unnested(connection: AsyncConnection) -> None:
    given_values = [EncodedJSON(f"[{NEGATIVE_ZERO}]".encode()), None, {"a": 1e23}]
    array = bindparam(None, given_values, ARRAY(ExactJSON()))
    rows = func.unnest(array).table_valued(column("data", ExactJSON()), with_ordinality="place").render_derived()

    read = await connection.execute(select(rows.c.data).order_by(rows.c.place))

    assert exact(list(read.scalars())) == exact([[-0.0], None, {"a": 1e23}])


async def test_updates_and_upserts_return_what_they_wrote(connection: AsyncConnection) -> None:
    await connection.execute(insert(documents).values(id=1, data={}))

    updated = await connection.scalar(update(documents).values(data=AWKWARD).returning(documents.c.data))
    statement = upsert(documents).values(id=1, data=[-0.0])
    upserted = await connection.scalar(
        statement.on_conflict_do_update(
            index_elements=[documents.c.id], set_={"data": statement.excluded.data}
        ).returning(documents.c.data)
    )

    assert exact(updated) == exact(AWKWARD)
    assert exact(upserted) == exact([-0.0])


async def test_values_pass_unharmed_through_nested_statements(connection: AsyncConnection) -> None:
    writing = insert(documents).values(id=1, data=AWKWARD, meta=[-0.0]).returning(documents.c.data).cte("written")
    from_cte = await connection.scalar(select(writing.c.data))
    await connection.execute(
        insert(documents).from_select(["id", "data"], select(literal_column("2"), documents.c.data))
    )

    newest = select(documents).where(documents.c.id == 2).subquery()
    from_subquery = await connection.scalar(select(newest.c.data))
    from_scalar = await connection.scalar(
        select(select(documents.c.meta).where(documents.c.id == 1).scalar_subquery().label("meta"))
    )
    from_union = (await connection.scalars(union_all(select(documents.c.data), select(documents.c.data)))).all()
    from_function = await connection.scalar(select(func.coalesce(documents.c.meta, documents.c.data)).limit(1))

    assert exact([from_cte, from_subquery, *from_union]) == exact([AWKWARD] * 6)
    assert exact([from_scalar, from_function]) == exact([[-0.0]] * 2)


async def test_text_statements_read_exactly_with_a_cast(connection: AsyncConnection) -> None:
    await connection.execute(insert(documents).values(data=AWKWARD))

    cast = text("SELECT data::text AS data FROM documents").columns(data=ExactJSON())
    plain = text("SELECT data FROM documents").columns(data=ExactJSON())

    assert exact(await connection.scalar(cast)) == exact(AWKWARD)
    assert await connection.scalar(plain) == AWKWARD


async def test_the_operators_of_jsonb_work(connection: AsyncConnection) -> None:
    await connection.execute(insert(documents).values(data={"a": {"n": -0.0}, "t": "x", "l": [1, "y"]}))
    data = documents.c.data

    row = (
        await connection.execute(
            select(
                data["a"].label("part"),
                data["a"]["n"].label("number"),
                data[("a", "n")].label("path"),
                data["t"].astext.label("text"),
                data.contains({"l": ["y"]}).label("contains"),
                data.contains({"l": ["z"]}).label("contains_not"),
                data.contained_by({"a": 1}).label("contained"),
                data.has_key("t").label("has_key"),
                data.concat({"t": -0.0}).label("concat"),
                (data == {"a": 1}).label("equal"),
            )
        )
    ).one()

    assert exact(row.part) == exact({"n": -0.0})
    assert exact([row.number, row.path]) == exact([-0.0, -0.0])
    assert row.text == "x"
    assert (row.contains, row.contains_not, row.contained) == (True, False, False)
    assert (row.has_key, row.equal) == (True, False)
    assert exact(row.concat["t"]) == exact(-0.0)


async def test_the_type_can_be_filtered_grouped_and_ordered_by(connection: AsyncConnection) -> None:
    await connection.execute(insert(documents), [{"data": {"n": n}} for n in (2, 1, 2)])
    data = documents.c.data

    grouped = select(data, func.count()).where(data.contains({})).group_by(data).order_by(data["n"].as_integer())

    assert [tuple(row) for row in await connection.execute(grouped)] == [({"n": 1}, 1), ({"n": 2}, 2)]
    assert sorted([value["n"] for value in await connection.scalars(select(data).distinct())]) == [1, 2]


def _refuse(_: Any) -> Any:
    raise AssertionError("the engine's own JSON functions are not ours")


async def test_the_json_functions_of_the_engine_do_not_matter(engine: AsyncEngine) -> None:
    host = create_async_engine(engine.url, json_serializer=_refuse, json_deserializer=_refuse)
    try:
        async for connection in _with_documents(host):
            assert exact(await stored(connection, AWKWARD)) == exact(AWKWARD)
            assert exact(await stored(connection, "0.00")) == exact("0.00")
    finally:
        await host.dispose()


async def test_a_refused_value_reaches_the_caller_as_itself(connection: AsyncConnection) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await connection.execute(insert(documents).values(data={"secret": ["canary", float("nan")]}))

    assert caught.value.field == "json.secret[1]"
    assert "canary" not in str(caught.value)
    assert await connection.scalar(select(func.count()).select_from(documents)) == 0  # the transaction goes on


async def test_entities_are_saved_and_loaded_exactly(connection: AsyncConnection) -> None:
    async with AsyncSession(connection, expire_on_commit=False) as session:
        session.add_all([Document(id=1, data=AWKWARD), Document(id=2, data=[], meta={"a": 1})])
        await session.flush()
        session.expunge_all()

        first, second = (await session.scalars(select(Document).order_by(Document.id))).all()

    assert exact([first.data, first.meta, second.meta]) == exact([AWKWARD, None, {"a": 1}])
    assert await connection.scalar(select(func.count()).where(documents.c.meta.is_(None))) == 1


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (0.0, -0.0), ([{"a": 0}], [{"a": False}])])
async def test_an_entity_notices_a_change_that_python_calls_equal(
    connection: AsyncConnection, before: Any, after: Any
) -> None:
    async with AsyncSession(connection) as session:
        session.add(document := Document(id=1, data=before))
        await session.flush()
        await session.refresh(document)
        document.data = after
        await session.flush()

        assert exact(await session.scalar(select(Document.data))) == exact(after)


async def test_an_unchanged_value_is_not_written_again(connection: AsyncConnection) -> None:
    async with AsyncSession(connection) as session:
        session.add(document := Document(id=1, data={"a": [1.0]}))
        await session.flush()
        await session.refresh(document)
        document.data = {"a": [1.0]}

        assert not session.is_modified(document)


async def test_sqlalchemy_says_why_values_cannot_be_made_unique(connection: AsyncConnection) -> None:
    await connection.execute(insert(documents).values(data={"a": 1}))

    async with AsyncSession(connection) as session:
        rows = (await session.execute(select(Document.id, Document.data))).unique()

        with pytest.raises(InvalidRequestError, match="non-hashable"):
            rows.all()


def test_the_ddl_says_jsonb(engine: AsyncEngine) -> None:
    ddl = str(CreateTable(documents).compile(engine.sync_engine))

    assert "data JSONB NOT NULL" in ddl


def test_the_type_is_written_as_python_can_read_it() -> None:
    assert repr(eval(repr(ExactJSON()))) == "ExactJSON()"  # noqa: S307 - as a revision would


async def test_alembic_sees_no_difference_from_jsonb(engine: AsyncEngine) -> None:
    metadata = MetaData(schema="json_type")
    Table("exact", metadata, Column("id", Integer, primary_key=True), Column("data", ExactJSON, nullable=False))

    def differences(connection: Connection) -> Any:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == "json_type",
                "compare_type": True,
            },
        )
        return compare_metadata(context, metadata)

    async with engine.connect() as connection:  # rolled back at the end, the schema too
        await connection.execute(text("CREATE SCHEMA json_type"))
        await connection.execute(text("CREATE TABLE json_type.exact (id serial PRIMARY KEY, data jsonb NOT NULL)"))
        without_difference = await connection.run_sync(differences)
        await connection.execute(text("ALTER TABLE json_type.exact ALTER data TYPE json"))
        with_difference = await connection.run_sync(differences)

    assert without_difference == []
    assert [change[0][0] for change in with_difference] == ["modify_type"]
