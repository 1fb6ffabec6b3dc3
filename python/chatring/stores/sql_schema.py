"""The tables of `SQLStore`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

# Raised by every change of the tables. A store refuses tables of a higher version than its own.
VERSION = 1

TABLES = MetaData()

_Identity = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only in an INTEGER PRIMARY KEY

schema = Table("chatring_schema", TABLES, Column("version", Integer, nullable=False))

# A session of three messages, counted with cl100k_base:
#
#   seq  role       text                tokens  total  before
#     0  user       Where is my order?       5      5       0
#     1  assistant  On its way.              4      9    NULL  no window begins with it
#     2  user       Thanks!                  2     11       9
#
# The session's `length` is 3, its `total` 11, its `reach` 9. A window from message 2 on has 11 - 9 tokens, one from
# message 0 on 11 - 0. With a limit of 6, `before` must be at least 11 - 6: the smallest such is 9, of message 2.

session = Table(
    "chatring_session",
    TABLES,
    Column("id", _Identity, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    # The name of the counter that the sums are in.
    Column("counter", Text, nullable=False),
    # Messages, numbered from 0 without gaps.
    Column("length", BigInteger, nullable=False),
    # `total` of the last message.
    Column("total", BigInteger, nullable=False),
    # The largest `before` of all messages.
    Column("reach", BigInteger),
    # Blank messages at the end. Windows that begin with one of them have no known number of tokens yet.
    Column("blank_tail", BigInteger, nullable=False),
    # Whether the last text ends in a character that is not whitespace, so that what comes next can be counted alone.
    Column("closed", Boolean, nullable=False),
    # SQLite would store anything anywhere, and whoever reads would have to look.
    CheckConstraint(
        "typeof(key) = 'text' AND typeof(counter) = 'text' "
        "AND typeof(length) = 'integer' AND typeof(total) = 'integer' AND typeof(reach) IN ('integer', 'null') "
        "AND typeof(blank_tail) = 'integer' AND blank_tail BETWEEN 0 AND length AND closed IN (0, 1)"
    ).ddl_if(dialect="sqlite"),
)

message = Table(
    "chatring_message",
    TABLES,
    Column("session_id", _Identity, ForeignKey(session.c.id, ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("role", Text, nullable=False),
    # UTF-8. As bytes, because neither PostgreSQL's text nor UTF-8 itself has all that a str may have.
    Column("text", LargeBinary, nullable=False),
    Column("payload", LargeBinary),
    # The prefix sum: tokens that the messages up to this one add, each after the one before it.
    Column("total", BigInteger, nullable=False),
    # For a message that a window may begin with: the tokens of a window that does are the session's `total` less this.
    # NULL also if an earlier one's is larger: that one's window has fewer tokens and begins earlier.
    Column("before", BigInteger),
    # As of the session.
    CheckConstraint(
        "typeof(role) = 'text' AND typeof(text) = 'blob' AND typeof(payload) IN ('blob', 'null') "
        "AND typeof(total) = 'integer' AND typeof(before) IN ('integer', 'null')"
    ).ddl_if(dialect="sqlite"),
)

# The search: the first message whose window fits is the one of the smallest `before` that is large enough.
Index(
    "chatring_message_start",
    message.c.session_id,
    message.c.before,
    message.c.seq,
    postgresql_where=message.c.before.is_not(None),
    sqlite_where=message.c.before.is_not(None),
)
