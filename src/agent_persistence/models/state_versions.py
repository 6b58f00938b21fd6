"""The view ``state_versions``: every state whole, also those that the table stores as changes."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, event, text

from agent_persistence.models.json_type import ExactJSON

VIEW: Final = "state_versions"
GUARD: Final = "refuse_change_of_base"

# The foreign key keeps bases from being deleted, this trigger from being changed; a change may become the whole state
# that it stands for. What is written again loses its mark, so that no writer takes it for the version that it saved.
# The trigger finds its table by name at run time: the schema need not be in the search path of the writer.
_CREATE_GUARD: Final = """\
CREATE FUNCTION {schema}refuse_change_of_base() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  found bigint;
BEGIN
  NEW.mark := NULL;
  IF OLD.state_data IS NULL AND NEW.patch IS NULL THEN
    RETURN NEW;
  END IF;
  EXECUTE format('SELECT state_id FROM %I.%I WHERE thread_id = $1 AND base_id = $2', TG_TABLE_SCHEMA, TG_TABLE_NAME)
    INTO found USING OLD.thread_id, OLD.state_id;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'a later version is kept as what changed since version % of this thread', OLD.state_id
      USING ERRCODE = 'restrict_violation', HINT = 'Save a new version instead of changing an old one.';
  END IF;
  RETURN NEW;
END
$$"""
_HANG_GUARD: Final = """\
CREATE TRIGGER refuse_change_of_base BEFORE UPDATE OF state_data, patch ON {schema}states FOR EACH ROW
WHEN (OLD.state_data IS DISTINCT FROM NEW.state_data OR OLD.patch IS DISTINCT FROM NEW.patch)
EXECUTE FUNCTION {schema}refuse_change_of_base()"""
# For each key of a state: the last change that set or removed it, and the changes to the end of its list since. As the
# invoker, because a view with the rights of its owner would bypass the reader's policies of row-level security.
_CREATE_VIEW: Final = """\
CREATE VIEW {schema}state_versions WITH (security_invoker = true) AS
SELECT s.thread_id, s.state_id, CASE WHEN s.base_id IS NULL THEN s.state_data ELSE folded.state_data END AS state_data,
  s.meta, s.created_at, s.updated_at
FROM {schema}states AS s
LEFT JOIN LATERAL (
  WITH RECURSIVE chain AS (
    SELECT s.state_id, s.base_id, s.state_data, s.patch WHERE s.base_id IS NOT NULL
    UNION ALL
    SELECT base.state_id, base.base_id, base.state_data, base.patch
    FROM chain JOIN {schema}states AS base ON base.thread_id = s.thread_id AND base.state_id = chain.base_id
  ), changes AS (
    SELECT chain.state_id, entry.key, jsonb_build_object('set', entry.value) AS change
    FROM chain CROSS JOIN LATERAL jsonb_each(chain.state_data) AS entry WHERE chain.base_id IS NULL
    UNION ALL
    SELECT chain.state_id, entry.key, entry.value
    FROM chain CROSS JOIN LATERAL jsonb_each(chain.patch) AS entry WHERE chain.base_id IS NOT NULL
  ), placed AS (
    SELECT changes.*,
      max(state_id) OVER (PARTITION BY key) AS newest,
      max(state_id) FILTER (WHERE NOT change ? 'keep') OVER (PARTITION BY key) AS since,
      min((change ->> 'keep')::bigint) OVER (
        PARTITION BY key ORDER BY state_id ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
      ) AS kept
    FROM changes
  ), joined AS (
    SELECT placed.key, CASE
      WHEN placed.since = placed.newest THEN jsonb_agg(placed.change -> 'set') -> 0
      ELSE coalesce(jsonb_agg(item.value ORDER BY placed.state_id, item.place) FILTER (WHERE item.place > 0), '[]')
      END AS value
    FROM placed LEFT JOIN LATERAL jsonb_array_elements(
      CASE WHEN placed.since < placed.newest THEN coalesce(placed.change -> 'add', placed.change -> 'set') END
    ) WITH ORDINALITY AS item (value, place)
      ON placed.kept IS NULL OR coalesce((placed.change ->> 'keep')::bigint, 0) + item.place <= placed.kept
    WHERE placed.state_id >= placed.since AND (placed.since < placed.newest OR placed.change ? 'set')
    GROUP BY placed.key, placed.since, placed.newest
  )
  SELECT coalesce(jsonb_object_agg(joined.key, joined.value), '{{}}') AS state_data FROM joined
) AS folded ON true"""


def create_state_versions(states: Table) -> None:
    """Let ``create_all`` create the view, and the trigger that guards versions on which others rest."""

    def create(target: Table, connection: Connection, **_: Any) -> None:
        # text() would read a colon as the start of a parameter.
        for statement in (_CREATE_GUARD, _HANG_GUARD, _CREATE_VIEW):
            connection.execute(text(_in_schema(statement, target, connection).replace(":", "\\:")))

    def drop_view(target: Table, connection: Connection, **_: Any) -> None:
        connection.execute(text(_in_schema(f"DROP VIEW IF EXISTS {{schema}}{VIEW}", target, connection)))

    def drop_guard(target: Table, connection: Connection, **_: Any) -> None:
        connection.execute(text(_in_schema(f"DROP FUNCTION IF EXISTS {{schema}}{GUARD}()", target, connection)))

    # The view depends on the table, and the table's trigger on the function: hence before, and after.
    event.listen(states, "after_create", create)
    event.listen(states, "before_drop", drop_view)
    event.listen(states, "after_drop", drop_guard)


def state_versions(states: Table) -> Table:
    """Return the view of a table of states; in a separate metadata, so that ``create_all`` makes no table of it."""
    columns = [
        Column("thread_id", states.c.thread_id.type),
        Column("state_id", BigInteger),
        Column("state_data", ExactJSON()),
    ]
    return Table(VIEW, MetaData(), *columns, schema=states.schema)


def _in_schema(statement: str, target: Table, connection: Connection) -> str:
    schema = target.schema
    prefix = "" if schema is None else f"{connection.dialect.identifier_preparer.quote_schema(schema)}."
    return statement.format(schema=prefix)
