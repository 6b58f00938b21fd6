"""The statements that somebody would write by hand for the same job: owner check, lock of the thread, its activity."""

_LOCKED = """\
WITH locked AS (
    SELECT thread_id FROM threads WHERE thread_id = $1 AND user_id = $2 FOR NO KEY UPDATE
), touched AS (
    UPDATE threads SET updated_at = now() FROM locked
    WHERE threads.thread_id = locked.thread_id AND threads.updated_at <= now() - interval '10 s'
)
"""

CREATE_THREAD = "INSERT INTO threads (thread_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"

READ_STATE = """\
SELECT s.state_id, s.state_data, s.meta, s.created_at, s.updated_at
FROM states s JOIN threads t USING (thread_id)
WHERE s.thread_id = $1 AND t.user_id = $2
ORDER BY s.state_id DESC LIMIT 1"""

SAVE_STATE = f"""{_LOCKED}
INSERT INTO states (thread_id, state_data, meta) SELECT thread_id, $3, $4 FROM locked
RETURNING state_id, created_at, updated_at"""

COLUMNS = (
    "message_id",
    "role",
    "content",
    "tool_calls",
    "tool_call_id",
    "reasoning",
    "total_tokens",
    "usages",
    "meta",
    "extra",
)
_NAMES = ", ".join(COLUMNS)

APPEND = f"""{_LOCKED}
INSERT INTO messages (thread_id, {_NAMES})
SELECT thread_id, {", ".join(f"${place}" for place in range(3, 13))} FROM locked
ON CONFLICT (thread_id, message_id) DO NOTHING
RETURNING message_id, seq, created_at, updated_at"""

LOCK = f"{_LOCKED} SELECT thread_id FROM locked"

INSERT_ONE = f"""\
INSERT INTO messages (thread_id, {_NAMES}) VALUES ({", ".join(f"${place}" for place in range(1, 12))})
ON CONFLICT (thread_id, message_id) DO NOTHING
RETURNING message_id, seq, created_at, updated_at"""

READ_BACK = """\
SELECT message_id, seq, created_at, updated_at FROM messages
WHERE thread_id = $1 AND message_id = ANY($2) ORDER BY seq"""

READ_VERSIONS = "SELECT state_data FROM states WHERE thread_id = $1 ORDER BY state_id"

_TYPES = ("text", "message_role", "text", "jsonb", "text", "text", "int", "jsonb", "jsonb", "jsonb")
_ARRAYS = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(_TYPES, 3))

APPEND_MANY = f"""{_LOCKED}
INSERT INTO messages (thread_id, {_NAMES})
SELECT locked.thread_id, {", ".join(f"new.{name}" for name in COLUMNS)}
FROM locked, unnest({_ARRAYS}) WITH ORDINALITY AS new ({_NAMES}, place) ORDER BY new.place
ON CONFLICT (thread_id, message_id) DO NOTHING
RETURNING message_id, seq, created_at, updated_at"""

_LAST = f"""\
SELECT m.seq, {", ".join(f"m.{name}" for name in COLUMNS)}, m.created_at, m.updated_at
FROM messages m JOIN threads t USING (thread_id)
WHERE m.thread_id = $1 AND t.user_id = $2
ORDER BY m.seq DESC LIMIT """

LAST_MESSAGES = f"{_LAST}50"
LAST_TWENTY = f"{_LAST}20"
MESSAGES_BEFORE = _LAST.replace("ORDER", "AND m.seq < $3 ORDER") + "$4"
MESSAGES_AFTER = MESSAGES_BEFORE.replace("m.seq < $3", "m.seq > $3").replace("m.seq DESC", "m.seq")
