-- Statements for SQLite only.

-- name: schema
CREATE TABLE chatring_schema (version INTEGER NOT NULL);

CREATE TABLE chatring_session (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE CHECK (typeof(key) = 'text'),
    -- The counter, measure, start rule and format of the numbers.
    policy TEXT NOT NULL CHECK (typeof(policy) = 'text'),
    -- Changes with every change except an append.
    epoch INTEGER NOT NULL CHECK (typeof(epoch) = 'integer'),
    -- Milliseconds since 1970.
    updated_at INTEGER NOT NULL,
    -- The leading system messages: how many, and their tokens, which no other sum includes.
    head INTEGER NOT NULL CHECK (typeof(head) = 'integer'),
    head_tokens INTEGER NOT NULL CHECK (typeof(head_tokens) = 'integer'),
    -- The position at which the messages behind the head began, the position of the first that is still there, and the
    -- tokens before that one.
    behind INTEGER NOT NULL,
    first INTEGER NOT NULL CHECK (typeof(first) = 'integer'),
    base INTEGER NOT NULL CHECK (typeof(base) = 'integer'),
    -- Where the window that has everything begins, and the tokens before it. In a session of LlamaIndex's Memory, the
    -- cut between archived and active messages.
    lead INTEGER NOT NULL CHECK (typeof(lead) = 'integer'),
    lead_total INTEGER NOT NULL CHECK (typeof(lead_total) = 'integer'),
    -- The position after the last message, and the tokens of all messages behind the head, trimmed ones included.
    "end" INTEGER NOT NULL CHECK (typeof("end") = 'integer'),
    total INTEGER NOT NULL CHECK (typeof(total) = 'integer'),
    -- The outline of the last message.
    last INTEGER,
    -- The position of the last user message, and its tokens.
    question INTEGER,
    question_tokens INTEGER NOT NULL,
    -- Where texts are joined: the largest `before`, the position after the last message that is not blank, whether that
    -- message ends in a character that is not whitespace, and whether windows may begin among many blank messages.
    reach INTEGER,
    word INTEGER NOT NULL,
    is_closed INTEGER NOT NULL,
    has_runs INTEGER NOT NULL
);

CREATE TABLE chatring_message (
    session_id INTEGER NOT NULL REFERENCES chatring_session (id) ON DELETE CASCADE,
    -- The position; from -head to -1 in the head.
    seq INTEGER NOT NULL CHECK (typeof(seq) = 'integer'),
    -- Its outline.
    kind INTEGER NOT NULL CHECK (typeof(kind) = 'integer'),
    -- What it adds to the total.
    tokens INTEGER NOT NULL CHECK (typeof(tokens) = 'integer'),
    -- If a window may begin with it: the total less the tokens of that window, and the position of the user message
    -- that such a window has in front.
    before INTEGER CHECK (typeof(before) IN ('integer', 'null')),
    question INTEGER CHECK (typeof(question) IN ('integer', 'null')),
    -- The message as it is given back.
    body TEXT NOT NULL CHECK (typeof(body) = 'text'),
    PRIMARY KEY (session_id, seq)
);

-- The search: the first start that fits is the one with the smallest `before` that is large enough.
CREATE INDEX chatring_message_start ON chatring_message (session_id, before, seq, question) WHERE before IS NOT NULL;

-- name: has_tables
SELECT 1 FROM sqlite_master WHERE name = 'chatring_schema';

-- name: lock_schema
-- The transaction begins with all locks that SQLite has.
SELECT 1;

-- name: first_version
INSERT INTO chatring_schema (version) VALUES (:version);

-- name: version
SELECT version FROM chatring_schema;

-- name: set_version
UPDATE chatring_schema SET version = :version;

-- name: begin
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;

-- name: session_locked
SELECT head, head_tokens, behind, first, base, lead, lead_total, "end", total, last, question, question_tokens, reach,
       word, is_closed, has_runs, epoch, policy
FROM chatring_session WHERE key = :key;

-- name: add
INSERT INTO chatring_message (session_id, seq, kind, tokens, before, question, body) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: keys
SELECT key FROM chatring_session
WHERE (:after IS NULL OR key > :after) AND substr(key, 1, length(:prefix)) = :prefix AND key >= :prefix
ORDER BY key LIMIT :count;

-- name: window
-- `room` is what head and window may have. The tokens left out are a multiple of `block`; NULL is for the largest of
-- `blocks` whose least allowance is there. The first row is the session and what was found; the others are the bodies.
WITH
session AS MATERIALIZED (SELECT * FROM chatring_session WHERE key = :key),
asked AS MATERIALIZED (
    SELECT session.*, CASE WHEN :with_head THEN head_tokens ELSE 0 END AS inside,
           CASE WHEN :with_head THEN 0 ELSE head_tokens END AS outside
    FROM session
),
cut AS MATERIALIZED (
    SELECT asked.*, total + outside - (:room - inside) AS excess,
           coalesce(:block, (SELECT max(json_extract(value, '$[1]')) FROM json_each(:blocks)
                              WHERE json_extract(value, '$[0]') <= :room - inside)) AS block
    FROM asked
),
bound AS MATERIALIZED (
    SELECT cut.*, inside <= :room AND excess <= 0 AS has_all, (excess + block - 1) / block * block - outside AS least FROM cut
),
found AS MATERIALIZED (
    SELECT bound.*, CASE
        WHEN inside > :room THEN NULL
        WHEN has_all THEN CASE WHEN head > 0 AND NOT :with_head THEN -head ELSE lead END
        ELSE coalesce(
            (SELECT seq FROM chatring_message
             WHERE session_id = bound.id AND before IS NOT NULL AND before >= bound.least ORDER BY before, seq LIMIT 1),
            CASE
                WHEN :falls_to_last THEN CASE
                    WHEN "end" > first THEN "end" - 1 WHEN head > 0 AND NOT :with_head THEN -1 ELSE "end" END
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
SELECT NULL AS seq, json_array(
    head, head_tokens, behind, first, base, lead, lead_total, "end", total, last, question, question_tokens, reach, word,
    is_closed, has_runs, epoch, policy, start, asks,
    CASE
        WHEN start IS NULL THEN -1
        WHEN has_all THEN head_tokens + total - CASE WHEN start < 0 THEN base ELSE lead_total END
        WHEN start = "end" THEN inside
        WHEN start_before IS NULL THEN inside + start_tokens
        ELSE inside + total - start_before - CASE WHEN start < 0 THEN base ELSE 0 END
    END) AS body
FROM opened
UNION ALL
SELECT seq, body FROM chatring_message
WHERE :with_head AND session_id = (SELECT id FROM opened WHERE start IS NOT NULL) AND seq < 0
UNION ALL
SELECT seq, body FROM chatring_message
WHERE session_id = (SELECT id FROM opened) AND seq = (SELECT asks FROM opened)
UNION ALL
SELECT seq, body FROM chatring_message
WHERE session_id = (SELECT id FROM opened) AND seq >= (SELECT start FROM opened) AND seq < (SELECT "end" FROM opened)
  AND (NOT :with_head OR seq >= 0);
