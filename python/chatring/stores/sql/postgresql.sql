-- Statements for PostgreSQL only.

-- name: schema
CREATE TABLE chatring_schema (version INTEGER NOT NULL);

CREATE TABLE chatring_session (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Sorted by its bytes, which are UTF-8 here.
    key TEXT COLLATE "C" NOT NULL UNIQUE,
    -- The counter, measure, start rule and format of the numbers.
    policy TEXT NOT NULL,
    -- Changes with every change except an append.
    epoch BIGINT NOT NULL,
    -- Milliseconds since 1970.
    updated_at BIGINT NOT NULL,
    -- The leading system messages: how many, and their tokens, which no other sum includes.
    head BIGINT NOT NULL,
    head_tokens BIGINT NOT NULL,
    -- The position at which the messages behind the head began, the position of the first that is still there, and the
    -- tokens before that one.
    behind BIGINT NOT NULL,
    first BIGINT NOT NULL,
    base BIGINT NOT NULL,
    -- Where the window that has everything begins, and the tokens before it. In a session of LlamaIndex's Memory, the
    -- cut between archived and active messages.
    lead BIGINT NOT NULL,
    lead_total BIGINT NOT NULL,
    -- The position after the last message, and the tokens of all messages behind the head, trimmed ones included.
    "end" BIGINT NOT NULL,
    total BIGINT NOT NULL,
    -- The outline of the last message.
    last SMALLINT,
    -- The position of the last user message, and its tokens.
    question BIGINT,
    question_tokens BIGINT NOT NULL,
    -- Where texts are joined: the largest `before`, the position after the last message that is not blank, whether that
    -- message ends in a character that is not whitespace, and whether windows may begin among many blank messages.
    reach BIGINT,
    word BIGINT NOT NULL,
    is_closed SMALLINT NOT NULL,
    has_runs SMALLINT NOT NULL
);

CREATE TABLE chatring_message (
    session_id BIGINT NOT NULL REFERENCES chatring_session (id) ON DELETE CASCADE,
    -- The position; from -head to -1 in the head.
    seq BIGINT NOT NULL,
    -- Its outline.
    kind SMALLINT NOT NULL,
    -- What it adds to the total.
    tokens BIGINT NOT NULL,
    -- If a window may begin with it: the total less the tokens of that window, and the position of the user message
    -- that such a window has in front.
    before BIGINT,
    question BIGINT,
    -- The message as it is given back.
    body TEXT NOT NULL,
    PRIMARY KEY (session_id, seq)
);

-- The search: the first start that fits is the one with the smallest `before` that is large enough.
CREATE INDEX chatring_message_start ON chatring_message (session_id, before, seq) INCLUDE (question) WHERE before IS NOT NULL;

-- name: where
-- The schema with the tables, the schema where new ones would be created, and the process of the server that answers.
SELECT namespace.nspname::text, current_schema()::text, pg_backend_pid()
FROM (SELECT to_regclass(:name::text) AS found) AS one
LEFT JOIN pg_class ON pg_class.oid = found LEFT JOIN pg_namespace AS namespace ON namespace.oid = relnamespace;

-- name: has_tables
-- Reading a table makes PostgreSQL see what others created while this transaction waited.
SELECT 1 FROM pg_class WHERE oid = to_regclass(:name::text);

-- name: lock_schema
-- Without the lock, two transactions that create the same table at once would fail.
SELECT pg_advisory_xact_lock(hashtext('chatring'));

-- name: version
SELECT version FROM chatring_schema;

-- name: set_version
UPDATE chatring_schema SET version = :version;

-- name: first_version
INSERT INTO chatring_schema (version) VALUES (:version);

-- name: begin
-- Each statement sees what was committed before it, whatever the default is.
BEGIN ISOLATION LEVEL READ COMMITTED;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;

-- name: session_locked
SELECT head, head_tokens, behind, first, base, lead, lead_total, "end", total, last, question, question_tokens, reach,
       word, is_closed, has_runs, epoch, policy
FROM chatring_session WHERE key = :key FOR UPDATE;

-- name: append
-- `save` and `add` in one. With `patience` it waits that many milliseconds for another writer.
WITH saved AS (
    UPDATE chatring_session
    SET head = :head, head_tokens = :head_tokens, behind = :behind, first = :first, base = :base, lead = :lead,
        lead_total = :lead_total, "end" = :end, total = :total, last = :last, question = :question,
        question_tokens = :question_tokens, reach = :reach, word = :word, is_closed = :is_closed, has_runs = :has_runs,
        policy = :policy, updated_at = :now
    WHERE key = :key AND epoch = :known_epoch AND "end" = :known_end
        AND (:patience::text IS NULL OR set_config('lock_timeout', :patience::text, true) IS NOT NULL)
    RETURNING id
)
INSERT INTO chatring_message (session_id, seq, kind, tokens, before, question, body)
SELECT saved.id, added.*
FROM saved, unnest(:seqs::bigint[], :kinds::smallint[], :tokens::bigint[], :befores::bigint[], :questions::bigint[],
                   :bodies::text[]) AS added;

-- name: append_one
-- `append` of one message: psycopg takes longer for arrays of one than for all the rest.
WITH saved AS (
    UPDATE chatring_session
    SET head = :head, head_tokens = :head_tokens, behind = :behind, first = :first, base = :base, lead = :lead,
        lead_total = :lead_total, "end" = :end, total = :total, last = :last, question = :question,
        question_tokens = :question_tokens, reach = :reach, word = :word, is_closed = :is_closed, has_runs = :has_runs,
        policy = :policy, updated_at = :now
    WHERE key = :key AND epoch = :known_epoch AND "end" = :known_end
        AND (:patience::text IS NULL OR set_config('lock_timeout', :patience::text, true) IS NOT NULL)
    RETURNING id
)
INSERT INTO chatring_message (session_id, seq, kind, tokens, before, question, body)
SELECT saved.id, :seq, :kind, :tokens, :before::bigint, :asks::bigint, :body FROM saved;

-- name: add_many
INSERT INTO chatring_message (session_id, seq, kind, tokens, before, question, body)
SELECT :id, added.*
FROM unnest(:seqs::bigint[], :kinds::smallint[], :tokens::bigint[], :befores::bigint[], :questions::bigint[],
            :bodies::text[]) AS added;

-- name: delete
DELETE FROM chatring_session
WHERE key = :key AND updated_at < :before
    AND (:patience::text IS NULL OR set_config('lock_timeout', :patience::text, true) IS NOT NULL);

-- name: keys
-- The range of the index is in the right order, and it ends nowhere if most keys have the prefix. CASE keeps PostgreSQL
-- from guessing that few keys have it, and from sorting all that it reads.
SELECT key FROM chatring_session
WHERE key >= greatest(:prefix::text, :after::text) AND (:after::text IS NULL OR key <> :after::text)
  AND CASE WHEN starts_with(key, :prefix::text) THEN true ELSE false END
ORDER BY key LIMIT :count;

-- name: keys_until
-- `keys`, but only those before `until`.
SELECT key FROM chatring_session
WHERE key >= greatest(:prefix::text, :after::text) AND key < :until::text
  AND (:after::text IS NULL OR key <> :after::text) AND CASE WHEN starts_with(key, :prefix::text) THEN true ELSE false END
ORDER BY key LIMIT :count;

-- name: window
-- `room` is what head and window may have. The tokens left out are a multiple of a block: the largest of `blocks` whose
-- least allowance is there. The first row is the session and what was found; the others are the bodies. Single values
-- are read in the order of the primary key. In a join, PostgreSQL would not know that there is only one session, and
-- would sort. What is used more than once is MATERIALIZED; otherwise it would be computed each time.
WITH
session AS (SELECT * FROM chatring_session WHERE key = :key),
asked AS (
    SELECT session.*, CASE WHEN :with_head::boolean THEN head_tokens ELSE 0 END AS inside,
           CASE WHEN :with_head::boolean THEN 0 ELSE head_tokens END AS outside
    FROM session
),
cut AS MATERIALIZED (
    SELECT asked.*, total + outside - (:room::bigint - inside) AS excess,
           (SELECT max(one.block) FROM unnest(:least::bigint[], :blocks::bigint[]) AS one (least, block)
            WHERE one.least <= :room::bigint - inside) AS block
    FROM asked
),
bound AS (
    SELECT cut.*, inside <= :room::bigint AND excess <= 0 AS has_all, (excess + block - 1) / block * block - outside AS least FROM cut
),
found AS MATERIALIZED (
    SELECT bound.*, CASE
        WHEN inside > :room::bigint THEN NULL
        WHEN has_all THEN CASE WHEN head > 0 AND NOT :with_head::boolean THEN -head ELSE lead END
        ELSE coalesce(
            (SELECT seq FROM chatring_message
             WHERE session_id = bound.id AND before IS NOT NULL AND before >= bound.least ORDER BY before, seq LIMIT 1),
            CASE
                WHEN :falls_to_last::boolean THEN CASE
                    WHEN "end" > first THEN "end" - 1 WHEN head > 0 AND NOT :with_head::boolean THEN -1 ELSE "end" END
                ELSE (SELECT seq FROM chatring_message
                      WHERE session_id = bound.id AND before IS NOT NULL ORDER BY before DESC, seq DESC LIMIT 1)
            END,
            "end")
    END AS start
    FROM bound
),
opened AS MATERIALIZED (
    SELECT found.*, message.before AS start_before, message.tokens AS start_tokens,
           CASE WHEN has_all THEN NULL ELSE message.question END AS asks
    FROM found LEFT JOIN chatring_message AS message ON message.session_id = found.id AND message.seq = found.start
)
SELECT NULL::bigint AS seq, json_build_array(
    head, head_tokens, behind, first, base, lead, lead_total, "end", total, last, question, question_tokens, reach, word,
    is_closed, has_runs, epoch, policy, start, asks,
    CASE
        WHEN start IS NULL THEN -1
        WHEN has_all THEN head_tokens + total - CASE WHEN start < 0 THEN base ELSE lead_total END
        WHEN start = "end" THEN inside
        WHEN start_before IS NULL THEN inside + start_tokens
        ELSE inside + total - start_before - CASE WHEN start < 0 THEN base ELSE 0 END
    END)::text AS body
FROM opened
UNION ALL
SELECT seq, body FROM chatring_message
WHERE :with_head::boolean AND session_id = (SELECT id FROM opened WHERE start IS NOT NULL) AND seq < 0
UNION ALL
SELECT seq, body FROM chatring_message
WHERE session_id = (SELECT id FROM opened) AND seq = (SELECT asks FROM opened)
UNION ALL
SELECT seq, body FROM chatring_message
WHERE session_id = (SELECT id FROM opened) AND seq >= (SELECT start FROM opened) AND seq < (SELECT "end" FROM opened)
  AND (NOT :with_head::boolean OR seq >= 0);
