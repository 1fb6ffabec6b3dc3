-- Statements for SQLite and PostgreSQL. :name is a value; `docs/stores.md` has the tables.

-- name: session
SELECT head, head_tokens, behind, first, base, lead, lead_total, "end", total, last, question, question_tokens, reach,
       word, is_closed, has_runs, epoch, policy
FROM chatring_session WHERE key = :key;

-- name: save
-- Only if the session is still what its writer knew.
UPDATE chatring_session
SET head = :head, head_tokens = :head_tokens, behind = :behind, first = :first, base = :base, lead = :lead,
    lead_total = :lead_total, "end" = :end, total = :total, last = :last, question = :question,
    question_tokens = :question_tokens, reach = :reach, word = :word, is_closed = :is_closed, has_runs = :has_runs,
    epoch = :epoch, policy = :policy, updated_at = :now
WHERE key = :key AND epoch = :known_epoch AND "end" = :known_end
RETURNING id;

-- name: begin_session
INSERT INTO chatring_session (key, head, head_tokens, behind, first, base, lead, lead_total, "end", total, last, question,
                              question_tokens, reach, word, is_closed, has_runs, epoch, policy, updated_at)
VALUES (:key, :head, :head_tokens, :behind, :first, :base, :lead, :lead_total, :end, :total, :last, :question,
        :question_tokens, :reach, :word, :is_closed, :has_runs, :epoch, :policy, :now)
ON CONFLICT (key) DO NOTHING
RETURNING id;

-- name: cut
DELETE FROM chatring_message WHERE session_id = :id AND seq >= :keep;

-- name: trim
DELETE FROM chatring_message WHERE session_id = :id AND seq >= 0 AND seq < :first;

-- name: cut_head
DELETE FROM chatring_message WHERE session_id = :id AND seq < 0;

-- name: forget_starts
UPDATE chatring_message SET before = NULL, question = NULL
WHERE session_id = :id AND seq >= 0 AND before IS NOT NULL;

-- name: settle_start
UPDATE chatring_message SET before = :before WHERE session_id = :id AND seq = :seq;

-- name: rows
SELECT message.seq, message.kind, message.tokens, message.before, message.question, message.body
FROM chatring_message AS message JOIN chatring_session AS session ON session.id = message.session_id
WHERE session.key = :key AND message.seq >= :start AND message.seq < :stop AND message.seq < session."end"
ORDER BY message.seq;

-- name: newest
SELECT message.body
FROM chatring_message AS message JOIN chatring_session AS session ON session.id = message.session_id
WHERE session.key = :key ORDER BY message.seq DESC LIMIT :count;

-- name: bodies
SELECT message.body
FROM chatring_message AS message JOIN chatring_session AS session ON session.id = message.session_id
WHERE session.key = :key ORDER BY message.seq;

-- name: delete
DELETE FROM chatring_session WHERE key = :key AND updated_at < :before;

-- name: updated_at
SELECT updated_at FROM chatring_session WHERE key = :key;

-- name: unused
SELECT key FROM chatring_session WHERE updated_at < :before;
