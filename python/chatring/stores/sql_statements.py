"""The statements of `SQLStore`. Their parameters are those of `bindparam`, or the columns that they set."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from chatring.stores.sql_schema import message, session

_KEY = session.c.key == bindparam("key")
_ID = message.c.session_id == bindparam("id")
_FROM_FIRST_ON = _ID & (message.c.seq >= bindparam("first"))
_RECORD = (message.c.role, message.c.text, message.c.payload)

_start = (
    select(message.c.seq)
    .where(message.c.session_id == session.c.id, message.c.before >= session.c.total - bindparam("allowance"))
    .order_by(message.c.before, message.c.seq)
    .limit(1)
    .correlate(session)
    .scalar_subquery()
)
_fallback = session.c.length - case((session.c.blank_tail > 0, session.c.blank_tail), else_=1)
_range = (
    select(session.c.id, func.coalesce(_start, _fallback).label("first"), (session.c.length - 1).label("last"))
    .where(_KEY, session.c.counter == bindparam("counter"))
    .cte("window_range")
    .prefix_with("MATERIALIZED", dialect="postgresql")
)

WINDOW = (
    select(*_RECORD)
    # As single values, and in the order of the primary key: PostgreSQL then reads the rows in order. Of a join it does
    # not know that there is one session, and sorts them, which takes a third of the time.
    .where(
        message.c.session_id == select(_range.c.id).scalar_subquery(),
        message.c.seq.between(select(_range.c.first).scalar_subquery(), select(_range.c.last).scalar_subquery()),
    )
    .order_by(message.c.session_id, message.c.seq)
)
"""The records of a window, oldest first. If no start is known to fit: the last one, or all blank ones at the end."""

_ends = (session.c.length == 0) | (
    select(message.c.seq)
    .where(message.c.session_id == session.c.id, message.c.seq == session.c.length - 1)
    .correlate(session)
    .exists()
)
_is_in_window = (
    (message.c.session_id == session.c.id)
    & (session.c.counter == bindparam("counter"))
    & (message.c.seq >= func.coalesce(_start, _fallback))
    & (message.c.seq < session.c.length)
)
EXPLAINED_WINDOW = (
    select(session.c.counter, _ends, *_RECORD, message.c.seq)
    .select_from(session.outerjoin(message, _is_in_window))
    .where(_KEY)
    .order_by(message.c.seq)
)
"""The counter, whether the last message is there if there must be one, and each record of the window, or NULLs."""

ALL = (
    select(*_RECORD, session.c.length)
    .join(session, (session.c.id == message.c.session_id) & (message.c.seq < session.c.length))
    .where(_KEY)
    .order_by(message.c.seq)
)
RECORDS_FROM = select(*_RECORD).where(_FROM_FIRST_ON).order_by(message.c.seq)
NEWEST = (
    select(*_RECORD, message.c.total)
    .where(_ID, message.c.seq < bindparam("length"))
    .order_by(message.c.seq.desc())
    .limit(bindparam("count"))
)
KEYS = select(session.c.key)
COUNTER_AND_LENGTH = select(session.c.counter, session.c.length).where(_KEY)
COUNTER_AND_END = select(session.c.counter, _ends).where(_KEY)
"""The counter, and whether the last message is there, if there must be one."""

COUNTER_LENGTH_AND_TOKENS = (
    select(session.c.counter, session.c.length, session.c.total - message.c.before)
    .outerjoin(message, (message.c.session_id == session.c.id) & (message.c.seq == 0))
    .where(_KEY)
)
# SQLite uses the index, which has no other rows, only if they are left out.
REACH = select(func.max(message.c.before)).where(_ID, message.c.before.is_not(None))
# The row stays locked until the transaction ends. SQLite has locked all of the database when it began.
LOCK_SESSION = select(*session.c).where(_KEY).with_for_update()

_values = {"length": 0, "total": 0, "blank_tail": 0, "closed": True}
BEGIN_SESSION = {
    "sqlite": sqlite.insert(session)
    .values(key=bindparam("key"), counter=bindparam("counter"), **_values)
    .on_conflict_do_nothing(),
    "postgresql": postgresql.insert(session)
    .values(key=bindparam("key"), counter=bindparam("counter"), **_values)
    .on_conflict_do_nothing(),
}
"""By dialect."""

SAVE_SESSION = (
    update(session)
    .where(session.c.id == bindparam("id"))
    .values({name: bindparam(name) for name in ("counter", "length", "total", "reach", "blank_tail", "closed")})
)
DELETE_SESSION = delete(session).where(session.c.id == bindparam("id"))

ADD_MESSAGE = insert(message)

_columns = [column for column in message.c if column is not message.c.session_id]
_lists = (cast(bindparam(column.name), postgresql.ARRAY(column.type)) for column in _columns)
_rows = func.unnest(*_lists).table_valued(*(column.name for column in _columns), name="added").render_derived()
ADD_MESSAGES = insert(message).from_select(
    ["session_id", *_rows.c.keys()], select(bindparam("session_id", type_=BigInteger), *_rows.c)
)
"""With a list for each column but the first, or None if all values of it are. PostgreSQL only: half the time."""

SETTLE_START = update(message).where(_ID, message.c.seq == bindparam("seq")).values(before=bindparam("start"))
FORGET_STARTS = update(message).where(_FROM_FIRST_ON, message.c.before.is_not(None)).values(before=null())
DELETE_MESSAGES = delete(message).where(_FROM_FIRST_ON)

# One record after a text that ends in a character that is not whitespace, as nearly all do: what it adds is known
# without the session, so one statement changes that and answers with what the message's row needs.

_step = bindparam("step", type_=BigInteger)
_start_less_total = bindparam("start", type_=BigInteger)  # NULL if no window may begin with the message
_before = session.c.total + _start_less_total

COUNT_ONE = (
    update(session)
    .where(
        session.c.key == bindparam("session_key"),
        session.c.counter == bindparam("session_counter"),
        session.c.closed,
        session.c.length > 0,
    )
    .values(
        length=session.c.length + 1,
        total=session.c.total + _step,
        reach=case((session.c.reach.is_(None) | (session.c.reach < _before), _before), else_=session.c.reach),
        blank_tail=bindparam("blanks"),
        closed=bindparam("ends_closed"),
    )
    # Of the row as it is now.
    .returning(
        session.c.id.label("session_id"),
        (session.c.length - 1).label("seq"),
        session.c.total,
        case((session.c.reach == session.c.total - _step + _start_less_total, session.c.reach)).label("before"),
    )
)
"""Answers with no row if it changed none."""

_counted = COUNT_ONE.cte("counted")
_record = (
    bindparam("role", type_=message.c.role.type),
    bindparam("text", type_=message.c.text.type),
    bindparam("payload", type_=message.c.payload.type),
)
APPEND_ONE = (
    insert(message)
    .from_select([*_counted.c.keys(), "role", "text", "payload"], select(*_counted.c, *_record))
    .returning(message.c.seq)
)
"""`COUNT_ONE`, and the message's row with it. PostgreSQL only: SQLite has no such statement."""
