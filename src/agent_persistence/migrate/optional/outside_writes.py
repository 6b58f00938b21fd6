"""Optional triggers that invalidate cached states after writes of other programs."""

from __future__ import annotations

from typing import Final

from agent_persistence.migrate.optional.definition import OptionalObject

# OLD of an insert and NEW of a delete are null.
_TELL_OF_THREAD: Final = """
BEGIN
  INSERT INTO cache_outbox (thread_id, user_id)
  SELECT thread_id, user_id
  FROM (VALUES (OLD.thread_id, OLD.user_id), (NEW.thread_id, NEW.user_id)) AS written (thread_id, user_id)
  WHERE thread_id IS NOT NULL;
  RETURN NULL;
END
"""
# Under row-level security the function's role sees no thread until it sets ``any_user``. In a cascade the thread is
# already gone, and the trigger of ``threads`` has written its row.
_TELL_OF_STATE: Final = """
DECLARE
  any_user text := coalesce(current_setting('agent_persistence.any_user', true), '');
BEGIN
  PERFORM set_config('agent_persistence.any_user', 'on', true);
  INSERT INTO cache_outbox (thread_id, user_id)
  SELECT thread_id, user_id FROM threads WHERE thread_id IN (OLD.thread_id, NEW.thread_id);
  PERFORM set_config('agent_persistence.any_user', any_user, true);
  RETURN NULL;
END
"""


def _trigger(name: str, events: str, table: str, body: str) -> tuple[str, ...]:
    return (
        # SECURITY DEFINER: a role that deletes a user, and by a cascade threads, needs no rights on our tables.
        # pg_temp comes last in the search path, so that no temporary table takes the place of ours.
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = {{schema}}, pg_temp AS $${body}$$",
        # Any other role could otherwise attach the function to one of its tables, and run it with our rights.
        f"REVOKE ALL ON FUNCTION {name}() FROM PUBLIC",
        # For each row: PostgreSQL evaluates the condition before it queues the trigger, so the condition is all that
        # the library's own writes pay for.
        f"CREATE OR REPLACE TRIGGER {name} AFTER {events} ON {table} FOR EACH ROW "
        "WHEN (current_setting('agent_persistence.keeps_cache', true) IS DISTINCT FROM 'on') "
        f"EXECUTE FUNCTION {name}()",
    )


OUTSIDE_WRITES: Final = OptionalObject(
    name="outside-writes",
    summary="triggers that tell the cache what psql, other programs and cascades write",
    creates="opt_tell_cache_of_state",
    add=(
        *_trigger("opt_tell_cache_of_thread", "DELETE OR UPDATE OF thread_id, user_id", "threads", _TELL_OF_THREAD),
        *_trigger("opt_tell_cache_of_state", "INSERT OR UPDATE OR DELETE", "states", _TELL_OF_STATE),
    ),
    # The triggers go with their functions.
    remove=(
        "DROP FUNCTION IF EXISTS opt_tell_cache_of_thread() CASCADE",
        "DROP FUNCTION IF EXISTS opt_tell_cache_of_state() CASCADE",
    ),
)
