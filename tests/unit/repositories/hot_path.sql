-- lock and touch a thread
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER)))
SELECT locked.thread_id
FROM locked;

-- append a message, with ids
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER)))
INSERT INTO messages (thread_id, message_id, role, content, tool_calls, tool_call_id, reasoning, total_tokens, usages, meta, extra, aside) SELECT locked.thread_id, "new".message_id, CAST("new".role AS message_role) AS role, "new".content, "new".tool_calls, "new".tool_call_id, "new".reasoning, "new".total_tokens, "new".usages, "new".meta, "new".extra, "new".aside
FROM locked
JOIN (SELECT $1::VARCHAR AS thread_id, $2::VARCHAR AS owner, $5::VARCHAR AS message_id, $6::VARCHAR AS role, $7::VARCHAR AS content, $8::JSONB AS tool_calls, $9::VARCHAR AS tool_call_id, $10::VARCHAR AS reasoning, $11::INTEGER AS total_tokens, $12::JSONB AS usages, $13::JSONB AS meta, $14::JSONB AS extra, $15::VARCHAR AS aside, 1 AS ordinal) AS "new" ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
ORDER BY "new".ordinal
ON CONFLICT (thread_id, message_id) DO NOTHING
RETURNING messages.thread_id, messages.message_id, messages.seq, messages.created_at, messages.updated_at, width_bucket(0, 0, 1, CAST((messages.seq > (SELECT max(earlier.seq) AS max_1
FROM messages AS earlier
WHERE earlier.thread_id = messages.thread_id)) IS NOT false AS INTEGER)) AS is_latest, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- append a message, ids made by the database
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER)))
INSERT INTO messages (thread_id, role, content, tool_calls, tool_call_id, reasoning, total_tokens, usages, meta, extra, aside) SELECT locked.thread_id, CAST("new".role AS message_role) AS role, "new".content, "new".tool_calls, "new".tool_call_id, "new".reasoning, "new".total_tokens, "new".usages, "new".meta, "new".extra, "new".aside
FROM locked
JOIN (SELECT $1::VARCHAR AS thread_id, $2::VARCHAR AS owner, $5::VARCHAR AS role, $6::VARCHAR AS content, $7::JSONB AS tool_calls, $8::VARCHAR AS tool_call_id, $9::VARCHAR AS reasoning, $10::INTEGER AS total_tokens, $11::JSONB AS usages, $12::JSONB AS meta, $13::JSONB AS extra, $14::VARCHAR AS aside, 1 AS ordinal) AS "new" ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
ORDER BY "new".ordinal
ON CONFLICT (thread_id, message_id) DO NOTHING
RETURNING messages.thread_id, messages.message_id, messages.seq, messages.created_at, messages.updated_at, width_bucket(0, 0, 1, CAST((messages.seq > (SELECT max(earlier.seq) AS max_1
FROM messages AS earlier
WHERE earlier.thread_id = messages.thread_id)) IS NOT false AS INTEGER)) AS is_latest, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- save a state, as changes
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER))),
bases AS
(SELECT base.thread_id AS thread_id, base.state_id AS state_id, base.mark AS mark
FROM locked
JOIN states AS base ON base.thread_id = locked.thread_id AND base.state_id = $11::BIGINT FOR KEY SHARE OF base)
INSERT INTO states (thread_id, state_data, meta, mark, patch, base_id) SELECT locked.thread_id, CAST(convert_from("new".state_data, $5::VARCHAR) AS JSONB) AS convert_from_1, "new".meta, "new".mark, CAST(convert_from("new".patch, $6::VARCHAR) AS JSONB) AS convert_from_3, "new".base_id
FROM locked
JOIN (SELECT $1::VARCHAR AS thread_id, $2::VARCHAR AS owner, $7::BYTEA AS state_data, $8::JSONB AS meta, $9::BIGINT AS mark, $10::BYTEA AS patch, $11::BIGINT AS base_id, $12::BIGINT AS base_mark, 1 AS ordinal) AS "new" ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
LEFT OUTER JOIN bases ON bases.thread_id = "new".thread_id AND bases.state_id = "new".base_id AND bases.mark = "new".base_mark
WHERE "new".base_id IS NULL OR bases.state_id IS NOT NULL
ORDER BY "new".ordinal
RETURNING states.thread_id, states.state_id, states.created_at, states.updated_at, states.mark, width_bucket(0, 0, 1, CAST((states.state_id > (SELECT max(earlier.state_id) AS max_1
FROM states AS earlier
WHERE earlier.thread_id = states.thread_id)) IS NOT false AS INTEGER)) AS is_latest, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- save a state, whole
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER)))
INSERT INTO states (thread_id, state_data, meta, mark) SELECT locked.thread_id, CAST(convert_from("new".state_data, $5::VARCHAR) AS JSONB) AS convert_from_1, "new".meta, "new".mark
FROM locked
JOIN (SELECT $1::VARCHAR AS thread_id, $2::VARCHAR AS owner, $6::BYTEA AS state_data, $7::JSONB AS meta, $8::BIGINT AS mark, 1 AS ordinal) AS "new" ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
ORDER BY "new".ordinal
RETURNING states.thread_id, states.state_id, states.created_at, states.updated_at, states.mark, width_bucket(0, 0, 1, CAST((states.state_id > (SELECT max(earlier.state_id) AS max_1
FROM states AS earlier
WHERE earlier.thread_id = states.thread_id)) IS NOT false AS INTEGER)) AS is_latest, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- append several messages, with ids
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER)))
INSERT INTO messages (thread_id, message_id, role, content, tool_calls, tool_call_id, reasoning, total_tokens, usages, meta, extra, aside) SELECT locked.thread_id, "new".message_id, CAST("new".role AS message_role) AS role, "new".content, "new".tool_calls, "new".tool_call_id, "new".reasoning, "new".total_tokens, "new".usages, "new".meta, "new".extra, "new".aside
FROM locked
JOIN unnest($1::TEXT[], $2::TEXT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::JSONB[], $9::TEXT[], $10::TEXT[], $11::INTEGER[], $12::JSONB[], $13::JSONB[], $14::JSONB[], $15::TEXT[]) WITH ORDINALITY AS "new"(thread_id, owner, message_id, role, content, tool_calls, tool_call_id, reasoning, total_tokens, usages, meta, extra, aside, ordinal) ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
ORDER BY "new".ordinal
ON CONFLICT (thread_id, message_id) DO NOTHING
RETURNING messages.thread_id, messages.message_id, messages.seq, messages.created_at, messages.updated_at, width_bucket(0, 0, 1, CAST((messages.seq > (SELECT max(earlier.seq) AS max_1
FROM messages AS earlier
WHERE earlier.thread_id = messages.thread_id)) IS NOT false AS INTEGER)) AS is_latest, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- append several messages, ids made by the database
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER)))
INSERT INTO messages (thread_id, role, content, tool_calls, tool_call_id, reasoning, total_tokens, usages, meta, extra, aside) SELECT locked.thread_id, CAST("new".role AS message_role) AS role, "new".content, "new".tool_calls, "new".tool_call_id, "new".reasoning, "new".total_tokens, "new".usages, "new".meta, "new".extra, "new".aside
FROM locked
JOIN unnest($1::TEXT[], $2::TEXT[], $5::TEXT[], $6::TEXT[], $7::JSONB[], $8::TEXT[], $9::TEXT[], $10::INTEGER[], $11::JSONB[], $12::JSONB[], $13::JSONB[], $14::TEXT[]) WITH ORDINALITY AS "new"(thread_id, owner, role, content, tool_calls, tool_call_id, reasoning, total_tokens, usages, meta, extra, aside, ordinal) ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
ORDER BY "new".ordinal
ON CONFLICT (thread_id, message_id) DO NOTHING
RETURNING messages.thread_id, messages.message_id, messages.seq, messages.created_at, messages.updated_at, width_bucket(0, 0, 1, CAST((messages.seq > (SELECT max(earlier.seq) AS max_1
FROM messages AS earlier
WHERE earlier.thread_id = messages.thread_id)) IS NOT false AS INTEGER)) AS is_latest, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- save several states, as changes
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER))),
bases AS
(SELECT base.thread_id AS thread_id, base.state_id AS state_id, base.mark AS mark
FROM locked
JOIN states AS base ON base.thread_id = locked.thread_id AND base.state_id = ANY ($11::BIGINT[]) FOR KEY SHARE OF base)
INSERT INTO states (thread_id, state_data, meta, mark, patch, base_id) SELECT locked.thread_id, CAST(convert_from("new".state_data, $5::VARCHAR) AS JSONB) AS convert_from_1, "new".meta, "new".mark, CAST(convert_from("new".patch, $6::VARCHAR) AS JSONB) AS convert_from_3, "new".base_id
FROM locked
JOIN unnest($1::TEXT[], $2::TEXT[], $7::BYTEA[], $8::JSONB[], $9::BIGINT[], $10::BYTEA[], $11::BIGINT[], $12::BIGINT[]) WITH ORDINALITY AS "new"(thread_id, owner, state_data, meta, mark, patch, base_id, base_mark, ordinal) ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
LEFT OUTER JOIN bases ON bases.thread_id = "new".thread_id AND bases.state_id = "new".base_id AND bases.mark = "new".base_mark
WHERE "new".base_id IS NULL OR bases.state_id IS NOT NULL
ORDER BY "new".ordinal
RETURNING states.thread_id, states.state_id, states.created_at, states.updated_at, states.mark, width_bucket(0, 0, 1, CAST((states.state_id > (SELECT max(earlier.state_id) AS max_1
FROM states AS earlier
WHERE earlier.thread_id = states.thread_id)) IS NOT false AS INTEGER)) AS is_latest, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- save several states, whole
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER)))
INSERT INTO states (thread_id, state_data, meta, mark) SELECT locked.thread_id, CAST(convert_from("new".state_data, $5::VARCHAR) AS JSONB) AS convert_from_1, "new".meta, "new".mark
FROM locked
JOIN unnest($1::TEXT[], $2::TEXT[], $6::BYTEA[], $7::JSONB[], $8::BIGINT[]) WITH ORDINALITY AS "new"(thread_id, owner, state_data, meta, mark, ordinal) ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
ORDER BY "new".ordinal
RETURNING states.thread_id, states.state_id, states.created_at, states.updated_at, states.mark, width_bucket(0, 0, 1, CAST((states.state_id > (SELECT max(earlier.state_id) AS max_1
FROM states AS earlier
WHERE earlier.thread_id = states.thread_id)) IS NOT false AS INTEGER)) AS is_latest, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- append messages of several callers, without waiting for locks
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE SKIP LOCKED),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM locked
WHERE threads.thread_id = locked.thread_id AND (threads.updated_at <= now() - $3::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $4::INTEGER)))
INSERT INTO messages (thread_id, message_id, role, content, tool_calls, tool_call_id, reasoning, total_tokens, usages, meta, extra, aside) SELECT locked.thread_id, "new".message_id, CAST("new".role AS message_role) AS role, "new".content, "new".tool_calls, "new".tool_call_id, "new".reasoning, "new".total_tokens, "new".usages, "new".meta, "new".extra, "new".aside
FROM locked
JOIN unnest($1::TEXT[], $2::TEXT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::JSONB[], $9::TEXT[], $10::TEXT[], $11::INTEGER[], $12::JSONB[], $13::JSONB[], $14::JSONB[], $15::TEXT[]) WITH ORDINALITY AS "new"(thread_id, owner, message_id, role, content, tool_calls, tool_call_id, reasoning, total_tokens, usages, meta, extra, aside, ordinal) ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
ORDER BY "new".ordinal
ON CONFLICT (thread_id, message_id) DO NOTHING
RETURNING messages.thread_id, messages.message_id, messages.seq, messages.created_at, messages.updated_at, width_bucket(0, 0, 1, CAST((messages.seq > (SELECT max(earlier.seq) AS max_1
FROM messages AS earlier
WHERE earlier.thread_id = messages.thread_id)) IS NOT false AS INTEGER)) AS is_latest, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- read back copied messages
SELECT last.thread_id, (array_agg(last.message_id
ORDER BY last.seq))[$1::INTEGER] AS first_id, array_agg(last.seq
ORDER BY last.seq) AS positions, max(last.seq) AS seq, max(last.created_at) AS created_at, max(last.updated_at) AS updated_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started
FROM (SELECT messages.thread_id AS thread_id, messages.message_id AS message_id, messages.seq AS seq, messages.created_at AS created_at, messages.updated_at AS updated_at
FROM messages
WHERE messages.thread_id = $2::VARCHAR
ORDER BY messages.seq DESC
LIMIT $3::INTEGER) AS last GROUP BY last.thread_id;

-- latest state
SELECT states.thread_id, states.state_id, convert_to(CAST(states.state_data AS TEXT), $1::VARCHAR) AS state_data, states.base_id, states.stream_id, CAST(states.meta AS TEXT) AS meta, CASE WHEN (states.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.created_at END AS created_at, CASE WHEN (states.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.updated_at END AS updated_at
FROM states
JOIN threads ON threads.thread_id = states.thread_id
WHERE states.thread_id = $2::VARCHAR AND threads.user_id = $3::VARCHAR
ORDER BY states.state_id DESC
LIMIT 1;

-- latest state, for administration
SELECT states.thread_id, states.state_id, convert_to(CAST(states.state_data AS TEXT), $1::VARCHAR) AS state_data, states.base_id, states.stream_id, CAST(states.meta AS TEXT) AS meta, CASE WHEN (states.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.created_at END AS created_at, CASE WHEN (states.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.updated_at END AS updated_at
FROM states
JOIN threads ON threads.thread_id = states.thread_id
WHERE states.thread_id = $2::VARCHAR
ORDER BY states.state_id DESC
LIMIT 1;

-- latest state and what it rests on, but for what the reader has
SELECT states.thread_id, states.state_id, CASE WHEN ((states.state_id = $1::BIGINT AND states.mark = $2::BIGINT) IS NOT true) THEN convert_to(CAST(states.state_data AS TEXT), $3::VARCHAR) END AS state_data, states.base_id, states.stream_id, CAST(states.meta AS TEXT) AS meta, CASE WHEN (states.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.created_at END AS created_at, CASE WHEN (states.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.updated_at END AS updated_at, CASE WHEN ((states.state_id = $1::BIGINT AND states.mark = $2::BIGINT) IS NOT true) THEN CASE WHEN (states.base_id IS NOT NULL) THEN (WITH RECURSIVE chain(state_id, base_id) AS
(SELECT states.state_id AS state_id, states.base_id AS base_id UNION ALL SELECT base.state_id AS state_id, base.base_id AS base_id
FROM states AS base, chain
WHERE base.thread_id = states.thread_id AND base.state_id = chain.base_id)
SELECT array_agg(convert_to(CAST(coalesce(link.patch, link.state_data) AS TEXT), $4::VARCHAR)
ORDER BY link.state_id) AS array_agg_1
FROM states AS link, chain
WHERE link.thread_id = states.thread_id AND link.state_id = chain.state_id) END END AS links, states.state_id = $1::BIGINT AND states.mark = $2::BIGINT AS is_known
FROM states
JOIN threads ON threads.thread_id = states.thread_id
WHERE states.thread_id = $5::VARCHAR AND threads.user_id = $6::VARCHAR
ORDER BY states.state_id DESC
LIMIT 1;

-- latest states of several callers
SELECT wanted.ordinal, latest.thread_id, latest.state_id, latest.state_data, latest.base_id, latest.stream_id, CAST(latest.meta AS TEXT) AS meta, latest.created_at, latest.updated_at
FROM unnest($1::TEXT[], $2::TEXT[]) WITH ORDINALITY AS wanted(thread_id, owner, ordinal)
JOIN threads ON threads.thread_id = wanted.thread_id AND threads.user_id = wanted.owner
JOIN LATERAL (SELECT states.thread_id AS thread_id, states.state_id AS state_id, convert_to(CAST(states.state_data AS TEXT), $3::VARCHAR) AS state_data, states.base_id AS base_id, states.stream_id AS stream_id, states.meta AS meta, CASE WHEN (states.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.created_at END AS created_at, CASE WHEN (states.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.updated_at END AS updated_at
FROM states
WHERE states.thread_id = wanted.thread_id
ORDER BY states.state_id DESC
LIMIT 1) AS latest ON true;

-- latest states and what they rest on, but for what the readers have
SELECT wanted.ordinal, latest.thread_id, latest.state_id, latest.state_data, latest.base_id, latest.stream_id, CAST(latest.meta AS TEXT) AS meta, latest.created_at, latest.updated_at, latest.links, latest.is_known
FROM unnest($1::TEXT[], $2::TEXT[], $3::BIGINT[], $4::BIGINT[]) WITH ORDINALITY AS wanted(thread_id, owner, known_version, known_mark, ordinal)
JOIN threads ON threads.thread_id = wanted.thread_id AND threads.user_id = wanted.owner
JOIN LATERAL (SELECT states.thread_id AS thread_id, states.state_id AS state_id, CASE WHEN ((states.state_id = wanted.known_version AND states.mark = wanted.known_mark) IS NOT true) THEN convert_to(CAST(states.state_data AS TEXT), $5::VARCHAR) END AS state_data, states.base_id AS base_id, states.stream_id AS stream_id, states.meta AS meta, CASE WHEN (states.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.created_at END AS created_at, CASE WHEN (states.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE states.updated_at END AS updated_at, CASE WHEN ((states.state_id = wanted.known_version AND states.mark = wanted.known_mark) IS NOT true) THEN CASE WHEN (states.base_id IS NOT NULL) THEN (WITH RECURSIVE chain(state_id, base_id) AS
(SELECT states.state_id AS state_id, states.base_id AS base_id UNION ALL SELECT base.state_id AS state_id, base.base_id AS base_id
FROM states AS base, chain
WHERE base.thread_id = states.thread_id AND base.state_id = chain.base_id)
SELECT array_agg(convert_to(CAST(coalesce(link.patch, link.state_data) AS TEXT), $6::VARCHAR)
ORDER BY link.state_id) AS array_agg_1
FROM states AS link, chain
WHERE link.thread_id = states.thread_id AND link.state_id = chain.state_id) END END AS links, states.state_id = wanted.known_version AND states.mark = wanted.known_mark AS is_known
FROM states
WHERE states.thread_id = wanted.thread_id
ORDER BY states.state_id DESC
LIMIT 1) AS latest ON true;

-- chunk of a streamed state
SELECT state_chunks.data
FROM states
JOIN threads ON threads.thread_id = states.thread_id
LEFT OUTER JOIN state_chunks ON state_chunks.stream_id = states.stream_id AND state_chunks.place = $1::INTEGER
WHERE states.thread_id = $2::VARCHAR AND states.state_id = $3::BIGINT AND threads.user_id = $4::VARCHAR;

-- states by their marks, after a lost reply
SELECT wanted.thread_id, states.state_id, states.created_at, states.updated_at, states.mark, coalesce(threads.states_deleted_at BETWEEN now() - make_interval($1::INTEGER, $2::INTEGER, $3::INTEGER, $4::INTEGER, $5::INTEGER, $6::INTEGER, $7::FLOAT + $8::INTEGER) AND now(), false) AND NOT (EXISTS (SELECT older.state_id
FROM states AS older
WHERE older.thread_id = wanted.thread_id AND older.state_id <= wanted.after)) AS may_be_deleted, pg_is_in_recovery() AS in_recovery
FROM unnest($9::TEXT[], $10::BIGINT[], $11::BIGINT[]) AS wanted(thread_id, mark, after)
LEFT OUTER JOIN threads ON threads.thread_id = wanted.thread_id
LEFT OUTER JOIN states ON states.thread_id = wanted.thread_id AND states.mark = wanted.mark;

-- versions on which changes rest
WITH RECURSIVE chain(thread_id, state_id, base_id) AS
(SELECT states.thread_id AS thread_id, states.state_id AS state_id, states.base_id AS base_id
FROM states
JOIN unnest($3::TEXT[], $4::BIGINT[]) AS wanted(thread_id, state_id) ON states.thread_id = wanted.thread_id AND states.state_id = wanted.state_id UNION SELECT states.thread_id AS thread_id, states.state_id AS state_id, states.base_id AS base_id
FROM chain
JOIN states ON states.thread_id = chain.thread_id AND states.state_id = chain.base_id)
SELECT states.thread_id, states.state_id, states.base_id, convert_to(CAST(states.state_data AS TEXT), $1::VARCHAR) AS state_data, convert_to(CAST(states.patch AS TEXT), $2::VARCHAR) AS patch
FROM chain
JOIN states ON states.thread_id = chain.thread_id AND states.state_id = chain.state_id;

-- lock a thread to compare versions
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = $2::VARCHAR AND threads.user_id = $3::VARCHAR FOR NO KEY UPDATE)
SELECT locked.thread_id, current_setting($1::VARCHAR) AS isolation
FROM locked;

-- latest version
SELECT coalesce(max(states.state_id), $1::INTEGER) AS version
FROM states
WHERE states.thread_id = $2::VARCHAR;

-- latest versions of several threads
SELECT found.version, callers.ordinal
FROM unnest($1::TEXT[]) WITH ORDINALITY AS callers(thread_id, ordinal)
JOIN LATERAL (SELECT coalesce(max(states.state_id), $2::INTEGER) AS version
FROM states
WHERE states.thread_id = callers.thread_id) AS found ON true;

-- delete all states of a locked thread
WITH doomed AS
(SELECT states.thread_id AS thread_id, states.state_id AS state_id
FROM states
WHERE states.thread_id = $3::VARCHAR),
folded AS
(UPDATE states SET state_data=(SELECT state_versions.state_data
FROM state_versions
WHERE state_versions.thread_id = states.thread_id AND state_versions.state_id = states.state_id), updated_at=states.updated_at, base_id=$1::BIGINT, patch=$2::JSONB
FROM doomed
WHERE states.thread_id = doomed.thread_id AND states.base_id = doomed.state_id AND NOT (EXISTS (SELECT also.state_id
FROM doomed AS also
WHERE also.thread_id = states.thread_id AND also.state_id = states.state_id))),
noted AS
(UPDATE threads SET states_deleted_at=clock_timestamp()
WHERE threads.thread_id IN (SELECT also.thread_id
FROM doomed AS also))
DELETE
FROM states USING doomed
WHERE states.thread_id = doomed.thread_id AND states.state_id = doomed.state_id
RETURNING states.thread_id, states.state_id, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- delete old states of a locked thread
WITH doomed AS
(SELECT states.thread_id AS thread_id, states.state_id AS state_id
FROM states
WHERE states.thread_id = $3::VARCHAR AND states.state_id <= (SELECT states_1.state_id
FROM states AS states_1
WHERE states_1.thread_id = $3::VARCHAR
ORDER BY states_1.state_id DESC
LIMIT $4::INTEGER OFFSET $5::INTEGER) AND states.created_at < $6::TIMESTAMP WITH TIME ZONE),
folded AS
(UPDATE states SET state_data=(SELECT state_versions.state_data
FROM state_versions
WHERE state_versions.thread_id = states.thread_id AND state_versions.state_id = states.state_id), updated_at=states.updated_at, base_id=$1::BIGINT, patch=$2::JSONB
FROM doomed
WHERE states.thread_id = doomed.thread_id AND states.base_id = doomed.state_id AND NOT (EXISTS (SELECT also.state_id
FROM doomed AS also
WHERE also.thread_id = states.thread_id AND also.state_id = states.state_id))),
noted AS
(UPDATE threads SET states_deleted_at=clock_timestamp()
WHERE threads.thread_id IN (SELECT also.thread_id
FROM doomed AS also))
DELETE
FROM states USING doomed
WHERE states.thread_id = doomed.thread_id AND states.state_id = doomed.state_id
RETURNING states.thread_id, states.state_id, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- lock a thread
SELECT threads.thread_id, threads.user_id, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE;

-- lock a thread, and read it
SELECT threads.thread_id, threads.user_id, threads.thread_name, CAST(threads.meta AS TEXT) AS meta, CASE WHEN (threads.archived_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.archived_at END AS archived_at, CASE WHEN (threads.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.created_at END AS created_at, CASE WHEN (threads.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.updated_at END AS updated_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE;

-- lock several threads, without waiting
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE SKIP LOCKED)
SELECT locked.thread_id
FROM locked
JOIN unnest($1::TEXT[], $2::TEXT[]) AS wanted(thread_id, owner) ON locked.thread_id = wanted.thread_id AND locked.user_id = wanted.owner;

-- thread
SELECT threads.thread_id, threads.user_id, threads.thread_name, CAST(threads.meta AS TEXT) AS meta, CASE WHEN (threads.archived_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.archived_at END AS archived_at, CASE WHEN (threads.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.created_at END AS created_at, CASE WHEN (threads.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.updated_at END AS updated_at
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR;

-- threads of several callers
SELECT found.thread_id, found.user_id, found.thread_name, CAST(found.meta AS TEXT) AS meta, found.archived_at, found.created_at, found.updated_at, callers.ordinal
FROM unnest($1::TEXT[], $2::TEXT[]) WITH ORDINALITY AS callers(thread_id, owner, ordinal)
JOIN LATERAL (SELECT threads.thread_id AS thread_id, threads.user_id AS user_id, threads.thread_name AS thread_name, threads.meta AS meta, CASE WHEN (threads.archived_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.archived_at END AS archived_at, CASE WHEN (threads.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.created_at END AS created_at, CASE WHEN (threads.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.updated_at END AS updated_at
FROM threads
WHERE threads.thread_id = callers.thread_id AND threads.user_id = callers.owner) AS found ON true;

-- first page of threads
SELECT threads.thread_id, threads.user_id, threads.thread_name, CAST(threads.meta AS TEXT) AS meta, CASE WHEN (threads.archived_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.archived_at END AS archived_at, CASE WHEN (threads.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.created_at END AS created_at, CASE WHEN (threads.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.updated_at END AS updated_at
FROM threads
WHERE threads.user_id = $1::VARCHAR AND threads.archived_at IS NULL
ORDER BY threads.updated_at DESC, threads.thread_id DESC
LIMIT $2::INTEGER;

-- further page of threads, with every filter
SELECT threads.thread_id, threads.user_id, threads.thread_name, CAST(threads.meta AS TEXT) AS meta, CASE WHEN (threads.archived_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.archived_at END AS archived_at, CASE WHEN (threads.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.created_at END AS created_at, CASE WHEN (threads.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.updated_at END AS updated_at
FROM threads
WHERE threads.user_id = $1::VARCHAR AND threads.archived_at IS NULL AND (threads.thread_name ILIKE '%' || $2::VARCHAR || '%' ESCAPE '/') AND (threads.meta @> $3::JSONB) AND (threads.updated_at, threads.thread_id) < (coalesce($4::TIMESTAMP WITH TIME ZONE, (SELECT last.updated_at
FROM threads AS last
WHERE last.thread_id = $5::VARCHAR AND last.user_id = $1::VARCHAR)), $5::VARCHAR)
ORDER BY threads.updated_at DESC, threads.thread_id DESC
LIMIT $6::INTEGER;

-- add a thread
INSERT INTO threads (thread_id, thread_name, user_id, meta) VALUES ($1::VARCHAR, $2::VARCHAR, $3::VARCHAR, $4::JSONB)
ON CONFLICT (thread_id) DO NOTHING
RETURNING threads.thread_id, threads.user_id, threads.thread_name, CAST(threads.meta AS TEXT) AS meta, CASE WHEN (threads.archived_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.archived_at END AS archived_at, CASE WHEN (threads.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.created_at END AS created_at, CASE WHEN (threads.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.updated_at END AS updated_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- change a thread
UPDATE threads SET thread_name=$1::VARCHAR, archived_at=CASE WHEN $2::BOOLEAN THEN coalesce(threads.archived_at, now()) ELSE NULL END, meta=$3::JSONB
WHERE threads.thread_id = $4::VARCHAR AND threads.user_id = $5::VARCHAR
RETURNING threads.thread_id, threads.user_id, threads.thread_name, CAST(threads.meta AS TEXT) AS meta, CASE WHEN (threads.archived_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.archived_at END AS archived_at, CASE WHEN (threads.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.created_at END AS created_at, CASE WHEN (threads.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.updated_at END AS updated_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- change several threads
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE SKIP LOCKED)
UPDATE threads SET thread_name=ours.thread_name, meta=ours.meta
FROM (SELECT "new".thread_id AS new_id, "new".thread_name AS thread_name, "new".meta AS meta
FROM locked
JOIN unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::JSONB[]) WITH ORDINALITY AS "new"(thread_id, owner, thread_name, meta, ordinal) ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner) AS ours
WHERE threads.thread_id = ours.new_id
RETURNING threads.thread_id, threads.user_id, threads.thread_name, CAST(threads.meta AS TEXT) AS meta, CASE WHEN (threads.archived_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.archived_at END AS archived_at, CASE WHEN (threads.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.created_at END AS created_at, CASE WHEN (threads.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE threads.updated_at END AS updated_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- record the results of several tool calls
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE SKIP LOCKED)
INSERT INTO tool_results (thread_id, tool_call_id, result) SELECT locked.thread_id, "new".tool_call_id, "new".result
FROM locked
JOIN unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::JSONB[]) WITH ORDINALITY AS "new"(thread_id, owner, tool_call_id, result, ordinal) ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
ON CONFLICT (thread_id, tool_call_id) DO NOTHING
RETURNING tool_results.thread_id, tool_results.tool_call_id, tool_results.created_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- delete a thread
DELETE
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR
RETURNING threads.thread_id, threads.user_id, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- recorded result of a tool call
SELECT tool_results.tool_call_id, CAST(tool_results.result AS TEXT) AS result
FROM tool_results
JOIN threads ON threads.thread_id = tool_results.thread_id
WHERE tool_results.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR AND tool_results.tool_call_id = $3::VARCHAR;

-- record the result of a tool call
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE)
INSERT INTO tool_results (thread_id, tool_call_id, result) SELECT locked.thread_id, "new".tool_call_id, "new".result
FROM locked
JOIN (SELECT $1::VARCHAR AS thread_id, $2::VARCHAR AS owner, $3::VARCHAR AS tool_call_id, $4::JSONB AS result, 1 AS ordinal) AS "new" ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner
ON CONFLICT (thread_id, tool_call_id) DO NOTHING
RETURNING tool_results.thread_id, tool_results.tool_call_id, tool_results.created_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- add threads
INSERT INTO threads (thread_id, user_id, thread_name, meta, created_at, updated_at) SELECT "new".thread_id, "new".owner, "new".thread_name, "new".meta, now() + "new".ordinal * interval '1 microsecond' AS anon_1, now() + "new".ordinal * interval '1 microsecond' AS anon__1
FROM unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::JSONB[]) WITH ORDINALITY AS "new"(thread_id, owner, thread_name, meta, ordinal)
ON CONFLICT (thread_id) DO NOTHING
RETURNING threads.thread_id, threads.created_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- page of messages after a cursor
SELECT messages.thread_id, messages.message_id, messages.seq, messages.role, messages.content, CAST(messages.tool_calls AS TEXT) AS tool_calls, messages.tool_call_id, messages.reasoning, CAST(messages.extra AS TEXT) AS extra, messages.total_tokens, CAST(messages.usages AS TEXT) AS usages, CAST(messages.meta AS TEXT) AS meta, CASE WHEN (messages.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.created_at END AS created_at, CASE WHEN (messages.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.updated_at END AS updated_at, messages.aside
FROM messages
JOIN threads ON threads.thread_id = messages.thread_id
WHERE messages.thread_id = $1::VARCHAR AND messages.seq > $2::BIGINT AND threads.user_id = $3::VARCHAR AND messages.aside IS NULL
ORDER BY messages.seq
LIMIT $4::INTEGER;

-- page of messages before a cursor
SELECT messages.thread_id, messages.message_id, messages.seq, messages.role, messages.content, CAST(messages.tool_calls AS TEXT) AS tool_calls, messages.tool_call_id, messages.reasoning, CAST(messages.extra AS TEXT) AS extra, messages.total_tokens, CAST(messages.usages AS TEXT) AS usages, CAST(messages.meta AS TEXT) AS meta, CASE WHEN (messages.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.created_at END AS created_at, CASE WHEN (messages.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.updated_at END AS updated_at, messages.aside
FROM messages
JOIN threads ON threads.thread_id = messages.thread_id
WHERE messages.thread_id = $1::VARCHAR AND messages.seq < $2::BIGINT AND threads.user_id = $3::VARCHAR AND messages.aside IS NULL
ORDER BY messages.seq DESC
LIMIT $4::INTEGER;

-- page of messages and asides before a cursor
SELECT messages.thread_id, messages.message_id, messages.seq, messages.role, messages.content, CAST(messages.tool_calls AS TEXT) AS tool_calls, messages.tool_call_id, messages.reasoning, CAST(messages.extra AS TEXT) AS extra, messages.total_tokens, CAST(messages.usages AS TEXT) AS usages, CAST(messages.meta AS TEXT) AS meta, CASE WHEN (messages.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.created_at END AS created_at, CASE WHEN (messages.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.updated_at END AS updated_at, messages.aside
FROM messages
JOIN threads ON threads.thread_id = messages.thread_id
WHERE messages.thread_id = $1::VARCHAR AND messages.seq < $2::BIGINT AND threads.user_id = $3::VARCHAR
ORDER BY messages.seq DESC
LIMIT $4::INTEGER;

-- page of messages that contain a text
SELECT messages.thread_id, messages.message_id, messages.seq, messages.role, messages.content, CAST(messages.tool_calls AS TEXT) AS tool_calls, messages.tool_call_id, messages.reasoning, CAST(messages.extra AS TEXT) AS extra, messages.total_tokens, CAST(messages.usages AS TEXT) AS usages, CAST(messages.meta AS TEXT) AS meta, CASE WHEN (messages.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.created_at END AS created_at, CASE WHEN (messages.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.updated_at END AS updated_at, messages.aside
FROM messages
JOIN threads ON threads.thread_id = messages.thread_id
WHERE messages.thread_id = $1::VARCHAR AND messages.seq < $2::BIGINT AND threads.user_id = $3::VARCHAR AND messages.aside IS NULL AND (messages.content ILIKE '%' || $4::VARCHAR || '%' ESCAPE '/')
ORDER BY messages.seq DESC
LIMIT $5::INTEGER;

-- messages by their ids
SELECT messages.thread_id, messages.message_id, messages.seq, messages.role, messages.content, CAST(messages.tool_calls AS TEXT) AS tool_calls, messages.tool_call_id, messages.reasoning, CAST(messages.extra AS TEXT) AS extra, messages.total_tokens, CAST(messages.usages AS TEXT) AS usages, CAST(messages.meta AS TEXT) AS meta, CASE WHEN (messages.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.created_at END AS created_at, CASE WHEN (messages.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.updated_at END AS updated_at, messages.aside
FROM messages
JOIN threads ON threads.thread_id = messages.thread_id
WHERE messages.thread_id = $1::VARCHAR AND messages.message_id = ANY ($2::TEXT[]) AND threads.user_id = $3::VARCHAR;

-- message
SELECT messages.thread_id, messages.message_id, messages.seq, messages.role, messages.content, CAST(messages.tool_calls AS TEXT) AS tool_calls, messages.tool_call_id, messages.reasoning, CAST(messages.extra AS TEXT) AS extra, messages.total_tokens, CAST(messages.usages AS TEXT) AS usages, CAST(messages.meta AS TEXT) AS meta, CASE WHEN (messages.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.created_at END AS created_at, CASE WHEN (messages.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.updated_at END AS updated_at, messages.aside
FROM messages
JOIN threads ON threads.thread_id = messages.thread_id
WHERE messages.thread_id = $1::VARCHAR AND messages.message_id = $2::VARCHAR AND threads.user_id = $3::VARCHAR;

-- change a message
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = $4::VARCHAR AND threads.user_id = $5::VARCHAR FOR NO KEY UPDATE)
UPDATE messages SET content=$1::VARCHAR, role=CAST($2::VARCHAR AS message_role), updated_at=now(), meta=$3::JSONB
FROM locked
WHERE messages.thread_id = locked.thread_id AND messages.message_id = $6::VARCHAR
RETURNING messages.thread_id, messages.message_id, messages.seq, messages.role, messages.content, CAST(messages.tool_calls AS TEXT) AS tool_calls, messages.tool_call_id, messages.reasoning, CAST(messages.extra AS TEXT) AS extra, messages.total_tokens, CAST(messages.usages AS TEXT) AS usages, CAST(messages.meta AS TEXT) AS meta, CASE WHEN (messages.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.created_at END AS created_at, CASE WHEN (messages.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.updated_at END AS updated_at, messages.aside, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- delete a message
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE)
DELETE
FROM messages USING locked
WHERE messages.thread_id = locked.thread_id AND messages.message_id = $3::VARCHAR
RETURNING messages.thread_id, messages.seq, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- delete all messages of a locked thread
WITH gone AS
(DELETE
FROM messages
WHERE messages.thread_id = $1::VARCHAR
RETURNING messages.thread_id, messages.seq)
SELECT gone.thread_id, max(gone.seq) AS seq, count(*) AS deleted, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started
FROM gone GROUP BY gone.thread_id;

-- delete messages of several threads
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE SKIP LOCKED)
DELETE
FROM messages USING (SELECT "new".thread_id AS thread_id, "new".message_id AS message_id
FROM locked
JOIN unnest($1::TEXT[], $2::TEXT[], $3::TEXT[]) WITH ORDINALITY AS "new"(thread_id, owner, message_id, ordinal) ON locked.thread_id = "new".thread_id AND locked.user_id = "new".owner) AS due
WHERE messages.thread_id = due.thread_id AND messages.message_id = due.message_id
RETURNING messages.thread_id, messages.message_id, messages.seq, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- pages of messages of several callers
SELECT found.thread_id, found.message_id, found.seq, found.role, found.content, CAST(found.tool_calls AS TEXT) AS tool_calls, found.tool_call_id, found.reasoning, CAST(found.extra AS TEXT) AS extra, found.total_tokens, CAST(found.usages AS TEXT) AS usages, CAST(found.meta AS TEXT) AS meta, found.created_at, found.updated_at, found.aside, callers.ordinal
FROM unnest($1::INTEGER[], $2::TEXT[], $3::BIGINT[], $4::TEXT[]) WITH ORDINALITY AS callers("limit", thread_id, seq, owner, ordinal)
JOIN LATERAL (SELECT messages.thread_id AS thread_id, messages.message_id AS message_id, messages.seq AS seq, messages.role AS role, messages.content AS content, messages.tool_calls AS tool_calls, messages.tool_call_id AS tool_call_id, messages.reasoning AS reasoning, messages.extra AS extra, messages.total_tokens AS total_tokens, messages.usages AS usages, messages.meta AS meta, CASE WHEN (messages.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.created_at END AS created_at, CASE WHEN (messages.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE messages.updated_at END AS updated_at, messages.aside AS aside
FROM messages
JOIN threads ON threads.thread_id = messages.thread_id
WHERE messages.thread_id = callers.thread_id AND messages.seq < callers.seq AND threads.user_id = callers.owner AND messages.aside IS NULL
ORDER BY messages.seq DESC
LIMIT callers."limit") AS found ON true;

-- item
SELECT items.namespace, items.key, CAST(items.value AS TEXT) AS value, CASE WHEN (items.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.created_at END AS created_at, CASE WHEN (items.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.updated_at END AS updated_at, CASE WHEN (items.expires_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.expires_at END AS expires_at, coalesce(items.expires_at < statement_timestamp() + items.ttl_seconds * interval '0.9 seconds', false) AS is_due
FROM items
WHERE items.user_id = $1::VARCHAR AND items.namespace = $2::VARCHAR COLLATE "C" AND items.key = $3::VARCHAR COLLATE "C" AND (items.expires_at IS NULL OR items.expires_at > statement_timestamp());

-- items of several callers
SELECT found.namespace, found.key, CAST(found.value AS TEXT) AS value, found.created_at, found.updated_at, found.expires_at, found.is_due, callers.ordinal
FROM unnest($1::TEXT[], $2::TEXT[], $3::TEXT[]) WITH ORDINALITY AS callers(owner, namespace, key, ordinal)
JOIN LATERAL (SELECT items.namespace AS namespace, items.key AS key, items.value AS value, CASE WHEN (items.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.created_at END AS created_at, CASE WHEN (items.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.updated_at END AS updated_at, CASE WHEN (items.expires_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.expires_at END AS expires_at, coalesce(items.expires_at < statement_timestamp() + items.ttl_seconds * interval '0.9 seconds', false) AS is_due
FROM items
WHERE items.user_id = callers.owner AND items.namespace = callers.namespace AND items.key = callers.key AND (items.expires_at IS NULL OR items.expires_at > statement_timestamp())) AS found ON true;

-- items by their keys
SELECT items.namespace, items.key, CAST(items.value AS TEXT) AS value, CASE WHEN (items.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.created_at END AS created_at, CASE WHEN (items.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.updated_at END AS updated_at, CASE WHEN (items.expires_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.expires_at END AS expires_at, coalesce(items.expires_at < statement_timestamp() + items.ttl_seconds * interval '0.9 seconds', false) AS is_due
FROM items
JOIN unnest($1::TEXT[], $2::TEXT[]) AS wanted(namespace, key) ON items.namespace = wanted.namespace AND items.key = wanted.key
WHERE items.user_id = $3::VARCHAR AND (items.expires_at IS NULL OR items.expires_at > statement_timestamp());

-- page of items below a namespace
SELECT items.namespace, items.key, CAST(items.value AS TEXT) AS value, CASE WHEN (items.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.created_at END AS created_at, CASE WHEN (items.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.updated_at END AS updated_at, CASE WHEN (items.expires_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.expires_at END AS expires_at, coalesce(items.expires_at < statement_timestamp() + items.ttl_seconds * interval '0.9 seconds', false) AS is_due
FROM items
WHERE items.user_id = $1::VARCHAR AND (items.namespace = $2::VARCHAR COLLATE "C" OR items.namespace >= $3::VARCHAR COLLATE "C" AND items.namespace < $4::VARCHAR COLLATE "C") AND (items.expires_at IS NULL OR items.expires_at > statement_timestamp()) AND true
ORDER BY items.updated_at DESC, items.namespace, items.key
LIMIT $5::BIGINT OFFSET $6::BIGINT;

-- page of items by a filter, of several callers
SELECT found.namespace, found.key, CAST(found.value AS TEXT) AS value, found.created_at, found.updated_at, found.expires_at, found.is_due, callers.ordinal
FROM unnest($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::JSONB[], $6::TEXT[], $7::TEXT[], $8::TEXT[], $9::TEXT[], $10::TEXT[]) WITH ORDINALITY AS callers("limit", "offset", owner, namespace, operand_0, operand_1, low, high, path_0, path_1, ordinal)
JOIN LATERAL (SELECT items.namespace AS namespace, items.key AS key, items.value AS value, CASE WHEN (items.created_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.created_at END AS created_at, CASE WHEN (items.updated_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.updated_at END AS updated_at, CASE WHEN (items.expires_at NOT BETWEEN timestamptz '0001-01-01 00:00:00.000001Z' AND timestamptz '9999-12-31 23:59:59.999998Z') THEN timestamptz '-infinity' ELSE items.expires_at END AS expires_at, coalesce(items.expires_at < statement_timestamp() + items.ttl_seconds * interval '0.9 seconds', false) AS is_due
FROM items
WHERE items.user_id = callers.owner AND (items.namespace = callers.namespace OR items.namespace >= callers.low AND items.namespace < callers.high) AND (items.expires_at IS NULL OR items.expires_at > statement_timestamp()) AND (items.value #> CAST(callers.path_0 AS TEXT[])) IS NOT DISTINCT
FROM callers.operand_0 AND jsonb_typeof(items.value #> CAST(callers.path_1 AS TEXT[])) = 'string' AND (((items.value #> CAST(callers.path_1 AS TEXT[])) #>> '{}') COLLATE "C") > callers.operand_1
ORDER BY items.updated_at DESC, items.namespace, items.key
LIMIT callers."limit" OFFSET callers."offset") AS found ON true;

-- namespaces with items
WITH RECURSIVE steps(namespace) AS
(SELECT (SELECT items.namespace
FROM items
WHERE items.user_id = $1::VARCHAR AND items.namespace >= ''
ORDER BY items.namespace
LIMIT $2::INTEGER) AS namespace UNION ALL SELECT (SELECT items.namespace
FROM items
WHERE items.user_id = $1::VARCHAR AND items.namespace >= (steps.namespace || '')
ORDER BY items.namespace
LIMIT $3::INTEGER) AS anon_1
FROM steps
WHERE steps.namespace IS NOT NULL)
SELECT steps.namespace
FROM steps
WHERE steps.namespace IS NOT NULL AND (EXISTS (SELECT NULL AS anon_2
FROM items
WHERE items.user_id = $1::VARCHAR AND items.namespace = steps.namespace AND (items.expires_at IS NULL OR items.expires_at > statement_timestamp())));

-- namespaces with items, below one
WITH RECURSIVE steps(namespace) AS
(SELECT (SELECT items.namespace
FROM items
WHERE items.user_id = $2::VARCHAR AND items.namespace >= $3::VARCHAR AND items.namespace < $4::VARCHAR COLLATE "C"
ORDER BY items.namespace
LIMIT $5::INTEGER) AS namespace UNION ALL SELECT (SELECT items.namespace
FROM items
WHERE items.user_id = $2::VARCHAR AND items.namespace >= (steps.namespace || '') AND items.namespace < $4::VARCHAR COLLATE "C"
ORDER BY items.namespace
LIMIT $6::INTEGER) AS anon_2
FROM steps
WHERE steps.namespace IS NOT NULL)
SELECT $1::VARCHAR AS namespace
WHERE EXISTS (SELECT NULL AS anon_1
FROM items
WHERE items.user_id = $2::VARCHAR AND items.namespace = $1::VARCHAR AND (items.expires_at IS NULL OR items.expires_at > statement_timestamp())) UNION ALL SELECT steps.namespace
FROM steps
WHERE steps.namespace IS NOT NULL AND (EXISTS (SELECT NULL AS anon_1
FROM items
WHERE items.user_id = $2::VARCHAR AND items.namespace = steps.namespace AND (items.expires_at IS NULL OR items.expires_at > statement_timestamp())));

-- put items
INSERT INTO items (user_id, namespace, key, value, ttl_seconds, created_at, updated_at, expires_at) SELECT $1::VARCHAR AS user_id, "new".namespace, "new".key, "new".value, "new".ttl_seconds, statement_timestamp() AS created_at, statement_timestamp() AS updated_at, statement_timestamp() + "new".ttl_seconds * interval '1 second' AS expires_at
FROM unnest($2::TEXT[], $3::TEXT[], $4::JSONB[], $5::DOUBLE PRECISION[]) AS "new"(namespace, key, value, ttl_seconds)
ON CONFLICT (user_id, namespace, key) DO UPDATE SET value = excluded.value, created_at = CASE WHEN (items.expires_at IS NULL OR items.expires_at > statement_timestamp()) THEN items.created_at ELSE excluded.created_at END, updated_at = excluded.updated_at, expires_at = excluded.expires_at, ttl_seconds = excluded.ttl_seconds
RETURNING items.user_id, items.namespace, items.key, items.updated_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- put an item, without waiting for locks
WITH locked AS
(SELECT items.user_id AS user_id, items.namespace AS namespace, items.key AS key
FROM items, (SELECT $1::VARCHAR AS owner, $2::VARCHAR AS namespace, $3::VARCHAR AS key, $4::JSONB AS value, $5::FLOAT AS ttl_seconds) AS "new"
WHERE items.user_id = "new".owner AND items.namespace = "new".namespace AND items.key = "new".key FOR NO KEY UPDATE OF items SKIP LOCKED)
INSERT INTO items (user_id, namespace, key, value, ttl_seconds, created_at, updated_at, expires_at) SELECT "new".owner AS user_id, "new".namespace, "new".key, "new".value, "new".ttl_seconds, statement_timestamp() AS created_at, statement_timestamp() AS updated_at, statement_timestamp() + "new".ttl_seconds * interval '1 second' AS expires_at
FROM (SELECT $1::VARCHAR AS owner, $2::VARCHAR AS namespace, $3::VARCHAR AS key, $4::JSONB AS value, $5::FLOAT AS ttl_seconds) AS "new"
WHERE NOT (EXISTS (SELECT NULL AS anon_1
FROM items
WHERE items.user_id = "new".owner AND items.namespace = "new".namespace AND items.key = "new".key)) OR ("new".owner, "new".namespace, "new".key) IN (SELECT locked.user_id, locked.namespace, locked.key
FROM locked)
ON CONFLICT (user_id, namespace, key) DO UPDATE SET value = excluded.value, created_at = CASE WHEN (items.expires_at IS NULL OR items.expires_at > statement_timestamp()) THEN items.created_at ELSE excluded.created_at END, updated_at = excluded.updated_at, expires_at = excluded.expires_at, ttl_seconds = excluded.ttl_seconds
RETURNING items.user_id, items.namespace, items.key, items.updated_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- put items of several callers, without waiting for locks
WITH locked AS
(SELECT items.user_id AS user_id, items.namespace AS namespace, items.key AS key
FROM items, unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::JSONB[], $5::DOUBLE PRECISION[]) AS "new"(owner, namespace, key, value, ttl_seconds)
WHERE items.user_id = "new".owner AND items.namespace = "new".namespace AND items.key = "new".key FOR NO KEY UPDATE OF items SKIP LOCKED)
INSERT INTO items (user_id, namespace, key, value, ttl_seconds, created_at, updated_at, expires_at) SELECT "new".owner AS user_id, "new".namespace, "new".key, "new".value, "new".ttl_seconds, statement_timestamp() AS created_at, statement_timestamp() AS updated_at, statement_timestamp() + "new".ttl_seconds * interval '1 second' AS expires_at
FROM unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::JSONB[], $5::DOUBLE PRECISION[]) AS "new"(owner, namespace, key, value, ttl_seconds)
WHERE NOT (EXISTS (SELECT NULL AS anon_1
FROM items
WHERE items.user_id = "new".owner AND items.namespace = "new".namespace AND items.key = "new".key)) OR ("new".owner, "new".namespace, "new".key) IN (SELECT locked.user_id, locked.namespace, locked.key
FROM locked)
ON CONFLICT (user_id, namespace, key) DO UPDATE SET value = excluded.value, created_at = CASE WHEN (items.expires_at IS NULL OR items.expires_at > statement_timestamp()) THEN items.created_at ELSE excluded.created_at END, updated_at = excluded.updated_at, expires_at = excluded.expires_at, ttl_seconds = excluded.ttl_seconds
RETURNING items.user_id, items.namespace, items.key, items.updated_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- grant items their time to live again
WITH locked AS
(SELECT items.namespace AS namespace, items.key AS key
FROM items
JOIN unnest($1::TEXT[], $2::TEXT[]) AS wanted(namespace, key) ON items.namespace = wanted.namespace AND items.key = wanted.key
WHERE items.user_id = $3::VARCHAR AND (items.expires_at IS NULL OR items.expires_at > statement_timestamp()) AND items.ttl_seconds IS NOT NULL
ORDER BY items.namespace, items.key FOR UPDATE OF items SKIP LOCKED)
UPDATE items SET expires_at=(statement_timestamp() + items.ttl_seconds * interval '1 second')
FROM locked
WHERE items.user_id = $3::VARCHAR AND items.namespace = locked.namespace AND items.key = locked.key
RETURNING items.user_id, items.namespace, items.key, items.expires_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- delete items
WITH locked AS
(SELECT items.namespace AS namespace, items.key AS key
FROM items
JOIN unnest($1::TEXT[], $2::TEXT[]) AS wanted(namespace, key) ON items.namespace = wanted.namespace AND items.key = wanted.key
WHERE items.user_id = $3::VARCHAR
ORDER BY items.namespace, items.key FOR UPDATE OF items)
DELETE
FROM items USING locked
WHERE items.user_id = $3::VARCHAR AND items.namespace = locked.namespace AND items.key = locked.key
RETURNING items.user_id, items.namespace, items.key, items.expires_at IS NULL OR items.expires_at > statement_timestamp() AS was_live, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- delete all items below a namespace
DELETE
FROM items
WHERE items.user_id = $1::VARCHAR AND (items.namespace = $2::VARCHAR COLLATE "C" OR items.namespace >= $3::VARCHAR COLLATE "C" AND items.namespace < $4::VARCHAR COLLATE "C")
RETURNING items.user_id, items.namespace, items.key, items.expires_at IS NULL OR items.expires_at > statement_timestamp() AS was_live, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started;

-- graphs: known values
SELECT graph_values.value_no, graph_values.channel, graph_values.cells
FROM unnest($1::TEXT[], $2::BIGINT[]) AS wanted(channel, first_no)
JOIN graph_values ON graph_values.thread_id = $3::VARCHAR AND graph_values.checkpoint_ns = $4::VARCHAR AND graph_values.channel = wanted.channel AND graph_values.value_no >= wanted.first_no UNION SELECT graph_values.value_no, graph_values.channel, graph_values.cells
FROM graph_values
WHERE graph_values.thread_id = $3::VARCHAR AND graph_values.checkpoint_ns = $4::VARCHAR AND graph_values.checkpoint_id = $5::VARCHAR AND graph_values.channel = ANY ($6::TEXT[]);

-- graphs: lock thread and parent
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE)
SELECT locked.thread_id, graph_checkpoints.refs
FROM locked
LEFT OUTER JOIN graph_checkpoints ON graph_checkpoints.thread_id = locked.thread_id AND graph_checkpoints.checkpoint_ns = $3::VARCHAR AND graph_checkpoints.checkpoint_id = $4::VARCHAR;

-- graphs: read checkpoint
WITH head AS
(SELECT one.thread_id AS thread_id, one.checkpoint_ns AS checkpoint_ns, one.checkpoint_id AS checkpoint_id, one.parent_id AS parent_id, one.run_id AS run_id, one.created_at AS created_at, one.metadata AS metadata, one.exact_metadata AS exact_metadata, one.body AS body, one.refs AS refs, threads.user_id AS user_id, threads.updated_at AS touched_at, last.last_no AS last_no, threads.updated_at IS NOT DISTINCT
FROM $1::TIMESTAMP WITH TIME ZONE AND one.checkpoint_id IS NOT DISTINCT
FROM $2::VARCHAR AND one.created_at IS NOT DISTINCT
FROM $3::TIMESTAMP WITH TIME ZONE AND last.last_no = $4::BIGINT AS is_unchanged, EXISTS (SELECT *
FROM graph_checkpoints AS known
WHERE known.thread_id = threads.thread_id AND known.checkpoint_ns = $5::VARCHAR AND known.checkpoint_id = $2::VARCHAR AND known.created_at = $3::TIMESTAMP WITH TIME ZONE) AS has_known
FROM threads
LEFT OUTER JOIN LATERAL (SELECT graph_checkpoints.thread_id AS thread_id, graph_checkpoints.checkpoint_ns AS checkpoint_ns, graph_checkpoints.checkpoint_id AS checkpoint_id, graph_checkpoints.parent_id AS parent_id, graph_checkpoints.run_id AS run_id, graph_checkpoints.created_at AS created_at, graph_checkpoints.metadata AS metadata, graph_checkpoints.exact_metadata AS exact_metadata, graph_checkpoints.body AS body, graph_checkpoints.refs AS refs
FROM graph_checkpoints
WHERE graph_checkpoints.thread_id = threads.thread_id AND graph_checkpoints.checkpoint_ns = $5::VARCHAR
ORDER BY graph_checkpoints.checkpoint_id DESC
LIMIT 1) AS one ON true
JOIN LATERAL (SELECT coalesce(max(row.value_no), 0) AS last_no
FROM graph_values AS row
WHERE row.thread_id = threads.thread_id AND row.checkpoint_ns = $5::VARCHAR) AS last ON true
WHERE threads.thread_id = $6::VARCHAR AND threads.user_id = $7::VARCHAR),
found AS
(SELECT graph_values.thread_id AS thread_id, graph_values.checkpoint_ns AS checkpoint_ns, graph_values.value_no AS value_no, graph_values.checkpoint_id AS checkpoint_id, graph_values.channel AS channel, graph_values.cells AS cells, CASE WHEN span.is_whole THEN graph_values.content END AS content, false AS is_write
FROM head
JOIN unnest($8::TEXT[], $9::BIGINT[], $10::BIGINT[], $11::BOOLEAN[]) AS span(channel, first_no, last_no, is_whole) ON NOT head.is_unchanged
JOIN graph_values ON graph_values.thread_id = head.thread_id AND graph_values.checkpoint_ns = head.checkpoint_ns AND (span.channel IS NULL OR graph_values.channel = span.channel) AND graph_values.value_no BETWEEN span.first_no AND span.last_no UNION ALL SELECT graph_values.thread_id AS thread_id, graph_values.checkpoint_ns AS checkpoint_ns, graph_values.value_no AS value_no, graph_values.checkpoint_id AS checkpoint_id, graph_values.channel AS channel, graph_values.cells AS cells, graph_values.content AS content, true AS is_write
FROM head
JOIN graph_values ON graph_values.thread_id = head.thread_id AND graph_values.checkpoint_ns = head.checkpoint_ns AND graph_values.checkpoint_id = head.checkpoint_id),
rows AS
(SELECT found.thread_id AS thread_id, found.checkpoint_ns AS checkpoint_ns, found.value_no AS value_no, found.checkpoint_id AS checkpoint_id, found.channel AS channel, found.cells AS cells, found.content AS content, found.is_write AS is_write
FROM found UNION ALL SELECT graph_values.thread_id AS thread_id, graph_values.checkpoint_ns AS checkpoint_ns, graph_values.value_no AS value_no, graph_values.checkpoint_id AS checkpoint_id, graph_values.channel AS channel, graph_values.cells AS cells, graph_values.content AS content, false AS is_write
FROM found
JOIN graph_values ON graph_values.thread_id = found.thread_id AND graph_values.checkpoint_ns = found.checkpoint_ns
WHERE substr(found.content, $12::INTEGER, $13::INTEGER) = $14::BYTEA AND graph_values.value_no = CAST(CAST(concat($15::VARCHAR, encode(substr(found.content, $16::INTEGER, $17::INTEGER), $18::VARCHAR)) AS BIT(64)) AS BIGINT))
SELECT head.thread_id, head.checkpoint_ns, head.checkpoint_id, head.parent_id, head.run_id, head.created_at, CAST(head.metadata AS TEXT) AS metadata, head.exact_metadata, head.body, head.refs, head.user_id, head.touched_at, head.last_no, head.is_unchanged, head.has_known, CAST(NULL AS BIGINT) AS value_no, CAST(NULL AS TEXT) COLLATE "C" AS channel, CAST(NULL AS BYTEA) AS cells, CAST(NULL AS BYTEA) AS content, CAST(NULL AS BOOLEAN) AS is_write
FROM head UNION ALL SELECT rows.thread_id, rows.checkpoint_ns, rows.checkpoint_id, CAST(NULL AS TEXT) COLLATE "C" AS parent_id, CAST(NULL AS TEXT) COLLATE "C" AS run_id, CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS created_at, CAST(CAST(NULL AS JSONB) AS TEXT) AS metadata, CAST(NULL AS BYTEA) AS exact_metadata, CAST(NULL AS BYTEA) AS body, CAST(NULL AS BYTEA) AS refs, CAST(NULL AS VARCHAR(255)) COLLATE "C" AS user_id, CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS touched_at, CAST(NULL AS BIGINT) AS last_no, CAST(NULL AS BOOLEAN) AS is_unchanged, CAST(NULL AS BOOLEAN) AS has_known, rows.value_no, rows.channel, rows.cells, rows.content, rows.is_write
FROM rows;

-- graphs: read values
WITH found AS
(SELECT graph_values.thread_id AS thread_id, graph_values.checkpoint_ns AS checkpoint_ns, graph_values.value_no AS value_no, graph_values.checkpoint_id AS checkpoint_id, graph_values.channel AS channel, graph_values.cells AS cells, CASE WHEN span.is_whole THEN graph_values.content END AS content, false AS is_write
FROM unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::BIGINT[], $5::BIGINT[], $6::BOOLEAN[]) AS span(thread_id, checkpoint_ns, channel, first_no, last_no, is_whole)
JOIN graph_values ON graph_values.thread_id = span.thread_id AND graph_values.checkpoint_ns = span.checkpoint_ns AND (span.channel IS NULL OR graph_values.channel = span.channel) AND graph_values.value_no BETWEEN span.first_no AND span.last_no
JOIN threads ON threads.thread_id = graph_values.thread_id AND threads.user_id = $7::VARCHAR UNION ALL SELECT graph_values.thread_id AS thread_id, graph_values.checkpoint_ns AS checkpoint_ns, graph_values.value_no AS value_no, graph_values.checkpoint_id AS checkpoint_id, graph_values.channel AS channel, graph_values.cells AS cells, graph_values.content AS content, true AS is_write
FROM unnest($8::TEXT[], $9::TEXT[], $10::TEXT[]) AS pending(thread_id, checkpoint_ns, checkpoint_id)
JOIN graph_values ON graph_values.thread_id = pending.thread_id AND graph_values.checkpoint_ns = pending.checkpoint_ns AND graph_values.checkpoint_id = pending.checkpoint_id
JOIN threads ON threads.thread_id = graph_values.thread_id AND threads.user_id = $7::VARCHAR
WHERE $11::TEXT[] IS NULL OR graph_values.channel = ANY ($11::TEXT[]) OR octet_length(graph_values.content) <= $12::INTEGER)
SELECT found.thread_id, found.checkpoint_ns, found.value_no, found.checkpoint_id, found.channel, found.cells, found.content, found.is_write
FROM found UNION ALL SELECT graph_values.thread_id, graph_values.checkpoint_ns, graph_values.value_no, graph_values.checkpoint_id, graph_values.channel, graph_values.cells, graph_values.content, false AS is_write
FROM found
JOIN graph_values ON graph_values.thread_id = found.thread_id AND graph_values.checkpoint_ns = found.checkpoint_ns
WHERE substr(found.content, $13::INTEGER, $14::INTEGER) = $15::BYTEA AND graph_values.value_no = CAST(CAST(concat($16::VARCHAR, encode(substr(found.content, $17::INTEGER, $18::INTEGER), $19::VARCHAR)) AS BIT(64)) AS BIGINT);

-- graphs: save graphs
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id, threads.updated_at AS updated_at
FROM threads
WHERE threads.thread_id = ANY ($1::TEXT[]) AND threads.user_id = ANY ($2::TEXT[]) FOR NO KEY UPDATE),
chosen AS
(SELECT item.thread_id AS thread_id, item.owner AS owner, item.checkpoint_ns AS checkpoint_ns, item.expected_touch AS expected_touch, item.expected_last_no AS expected_last_no, item.parent_created_at AS parent_created_at, item.claims AS claims, item.checkpoint_id AS checkpoint_id, item.parent_id AS parent_id, item.run_id AS run_id, item.metadata AS metadata, item.exact_metadata AS exact_metadata, item.body AS body, item.refs_head AS refs_head, item.refs AS refs, locked.updated_at AS touched_before, (SELECT coalesce(max(row.value_no), 0) AS last_no
FROM graph_values AS row
WHERE row.thread_id = item.thread_id AND row.checkpoint_ns = item.checkpoint_ns) AS last_no
FROM locked
JOIN unnest($3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TIMESTAMP WITH TIME ZONE[], $7::BIGINT[], $8::TIMESTAMP WITH TIME ZONE[], $9::BOOLEAN[], $10::TEXT[], $11::TEXT[], $12::TEXT[], $13::JSONB[], $14::BYTEA[], $15::BYTEA[], $16::BYTEA[], $17::BYTEA[]) AS item(thread_id, owner, checkpoint_ns, expected_touch, expected_last_no, parent_created_at, claims, checkpoint_id, parent_id, run_id, metadata, exact_metadata, body, refs_head, refs) ON locked.thread_id = item.thread_id AND locked.user_id = item.owner
WHERE item.expected_touch IS NULL OR locked.updated_at = item.expected_touch AND (item.expected_last_no IS NULL OR item.expected_last_no = (SELECT coalesce(max(row.value_no), 0) AS last_no
FROM graph_values AS row
WHERE row.thread_id = item.thread_id AND row.checkpoint_ns = item.checkpoint_ns)) AND (item.parent_created_at IS NULL OR item.parent_created_at = (SELECT parent.created_at
FROM graph_checkpoints AS parent
WHERE parent.thread_id = item.thread_id AND parent.checkpoint_ns = item.checkpoint_ns AND parent.checkpoint_id = item.parent_id))),
added AS
(INSERT INTO graph_values (thread_id, checkpoint_ns, checkpoint_id, channel, cells, content) SELECT chosen.thread_id AS thread_id, chosen.checkpoint_ns AS checkpoint_ns, "new".written_at AS written_at, "new".channel AS channel, "new".cells AS cells, "new".content AS content
FROM chosen
JOIN unnest($18::TEXT[], $19::TEXT[], $20::TEXT[], $21::BYTEA[], $22::BYTEA[]) WITH ORDINALITY AS "new"(thread_id, written_at, channel, cells, content, ordinal) ON "new".thread_id = chosen.thread_id
ORDER BY "new".ordinal
RETURNING graph_values.thread_id, graph_values.value_no, width_bucket(0, 0, 1, CAST((graph_values.value_no > (SELECT max(earlier.value_no) AS max_1
FROM graph_values AS earlier
WHERE earlier.thread_id = graph_values.thread_id AND earlier.checkpoint_ns = graph_values.checkpoint_ns)) IS NOT false AS INTEGER)) AS is_latest),
numbers AS
(SELECT added.thread_id AS thread_id, array_agg(added.value_no
ORDER BY added.value_no) AS numbers, string_agg(int8send(added.value_no), ''::bytea
ORDER BY added.value_no) AS as_bytes
FROM added GROUP BY added.thread_id),
saved AS
(INSERT INTO graph_checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_id, run_id, metadata, exact_metadata, body, refs) SELECT chosen.thread_id AS thread_id, chosen.checkpoint_ns AS checkpoint_ns, chosen.checkpoint_id AS checkpoint_id, chosen.parent_id AS parent_id, chosen.run_id AS run_id, chosen.metadata AS metadata, chosen.exact_metadata AS exact_metadata, chosen.body AS body, chosen.refs_head || coalesce(numbers.as_bytes, ''::bytea) || chosen.refs AS anon_1
FROM chosen
LEFT OUTER JOIN numbers ON numbers.thread_id = chosen.thread_id
WHERE chosen.checkpoint_id IS NOT NULL
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET parent_id = excluded.parent_id, run_id = excluded.run_id, created_at = now(), metadata = excluded.metadata, exact_metadata = excluded.exact_metadata, body = excluded.body, refs = excluded.refs
RETURNING graph_checkpoints.thread_id),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM chosen
WHERE threads.thread_id = chosen.thread_id AND (threads.updated_at <= now() - $23::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $24::INTEGER) OR chosen.claims)
RETURNING threads.thread_id, threads.updated_at)
SELECT chosen.thread_id, chosen.checkpoint_ns, chosen.checkpoint_id, chosen.touched_before, coalesce(touched.updated_at, chosen.touched_before) AS touched_at, chosen.last_no, numbers.numbers, now() AS created_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started
FROM chosen
LEFT OUTER JOIN touched ON touched.thread_id = chosen.thread_id
LEFT OUTER JOIN numbers ON numbers.thread_id = chosen.thread_id;

-- graphs: save graphs, one
WITH locked AS
(SELECT threads.thread_id AS thread_id, threads.user_id AS user_id, threads.updated_at AS updated_at
FROM threads
WHERE threads.thread_id = $1::VARCHAR AND threads.user_id = $2::VARCHAR FOR NO KEY UPDATE),
chosen AS
(SELECT item.thread_id AS thread_id, item.owner AS owner, item.checkpoint_ns AS checkpoint_ns, item.expected_touch AS expected_touch, item.expected_last_no AS expected_last_no, item.parent_created_at AS parent_created_at, item.claims AS claims, item.checkpoint_id AS checkpoint_id, item.parent_id AS parent_id, item.run_id AS run_id, item.metadata AS metadata, item.exact_metadata AS exact_metadata, item.body AS body, item.refs_head AS refs_head, item.refs AS refs, locked.updated_at AS touched_before, (SELECT coalesce(max(row.value_no), 0) AS last_no
FROM graph_values AS row
WHERE row.thread_id = item.thread_id AND row.checkpoint_ns = item.checkpoint_ns) AS last_no
FROM locked
JOIN (SELECT $3::VARCHAR AS thread_id, $4::VARCHAR AS owner, $5::VARCHAR AS checkpoint_ns, $6::TIMESTAMP WITH TIME ZONE AS expected_touch, $7::BIGINT AS expected_last_no, $8::TIMESTAMP WITH TIME ZONE AS parent_created_at, $9::BOOLEAN AS claims, $10::VARCHAR AS checkpoint_id, $11::VARCHAR AS parent_id, $12::VARCHAR AS run_id, $13::JSONB AS metadata, $14::BYTEA AS exact_metadata, $15::BYTEA AS body, $16::BYTEA AS refs_head, $17::BYTEA AS refs) AS item ON locked.thread_id = item.thread_id AND locked.user_id = item.owner
WHERE item.expected_touch IS NULL OR locked.updated_at = item.expected_touch AND (item.expected_last_no IS NULL OR item.expected_last_no = (SELECT coalesce(max(row.value_no), 0) AS last_no
FROM graph_values AS row
WHERE row.thread_id = item.thread_id AND row.checkpoint_ns = item.checkpoint_ns)) AND (item.parent_created_at IS NULL OR item.parent_created_at = (SELECT parent.created_at
FROM graph_checkpoints AS parent
WHERE parent.thread_id = item.thread_id AND parent.checkpoint_ns = item.checkpoint_ns AND parent.checkpoint_id = item.parent_id))),
added AS
(INSERT INTO graph_values (thread_id, checkpoint_ns, checkpoint_id, channel, cells, content) SELECT chosen.thread_id AS thread_id, chosen.checkpoint_ns AS checkpoint_ns, "new".written_at AS written_at, "new".channel AS channel, "new".cells AS cells, "new".content AS content
FROM chosen
JOIN unnest($18::TEXT[], $19::TEXT[], $20::TEXT[], $21::BYTEA[], $22::BYTEA[]) WITH ORDINALITY AS "new"(thread_id, written_at, channel, cells, content, ordinal) ON "new".thread_id = chosen.thread_id
ORDER BY "new".ordinal
RETURNING graph_values.thread_id, graph_values.value_no, width_bucket(0, 0, 1, CAST((graph_values.value_no > (SELECT max(earlier.value_no) AS max_1
FROM graph_values AS earlier
WHERE earlier.thread_id = graph_values.thread_id AND earlier.checkpoint_ns = graph_values.checkpoint_ns)) IS NOT false AS INTEGER)) AS is_latest),
numbers AS
(SELECT added.thread_id AS thread_id, array_agg(added.value_no
ORDER BY added.value_no) AS numbers, string_agg(int8send(added.value_no), ''::bytea
ORDER BY added.value_no) AS as_bytes
FROM added GROUP BY added.thread_id),
saved AS
(INSERT INTO graph_checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_id, run_id, metadata, exact_metadata, body, refs) SELECT chosen.thread_id AS thread_id, chosen.checkpoint_ns AS checkpoint_ns, chosen.checkpoint_id AS checkpoint_id, chosen.parent_id AS parent_id, chosen.run_id AS run_id, chosen.metadata AS metadata, chosen.exact_metadata AS exact_metadata, chosen.body AS body, chosen.refs_head || coalesce(numbers.as_bytes, ''::bytea) || chosen.refs AS anon_1
FROM chosen
LEFT OUTER JOIN numbers ON numbers.thread_id = chosen.thread_id
WHERE chosen.checkpoint_id IS NOT NULL
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET parent_id = excluded.parent_id, run_id = excluded.run_id, created_at = now(), metadata = excluded.metadata, exact_metadata = excluded.exact_metadata, body = excluded.body, refs = excluded.refs
RETURNING graph_checkpoints.thread_id),
touched AS
(UPDATE threads SET updated_at=clock_timestamp()
FROM chosen
WHERE threads.thread_id = chosen.thread_id AND (threads.updated_at <= now() - $23::INTERVAL OR threads.thread_id != (SELECT other.thread_id
FROM threads AS other
WHERE other.user_id = threads.user_id AND other.archived_at IS NULL
ORDER BY other.updated_at DESC, other.thread_id DESC
LIMIT $24::INTEGER) OR chosen.claims)
RETURNING threads.thread_id, threads.updated_at)
SELECT chosen.thread_id, chosen.checkpoint_ns, chosen.checkpoint_id, chosen.touched_before, coalesce(touched.updated_at, chosen.touched_before) AS touched_at, chosen.last_no, numbers.numbers, now() AS created_at, CAST(pg_current_xact_id() AS TEXT) AS transaction_id, now() AS transaction_started, pg_postmaster_start_time() AS server_started
FROM chosen
LEFT OUTER JOIN touched ON touched.thread_id = chosen.thread_id
LEFT OUTER JOIN numbers ON numbers.thread_id = chosen.thread_id;
