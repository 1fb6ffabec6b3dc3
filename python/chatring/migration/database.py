"""Reading databases that may not be ours: without making tables, as `SQLStore` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chatring.stores.redaction import without_secrets

if TYPE_CHECKING:
    from sqlalchemy import Engine


def engine_of(url: str) -> Engine:
    """Return an engine for the URL of a `SQLStore`."""
    from sqlalchemy import create_engine

    from chatring.stores.sql_url import lost_connection, sqlalchemy_url, without_ours

    parsed = without_ours(sqlalchemy_url(url))
    if not url.startswith("postgres"):
        return create_engine(parsed, hide_parameters=True)
    parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(parsed, connect_args=lost_connection(parsed), hide_parameters=True)


@contextmanager
def sql_errors(url: str) -> Iterator[None]:
    """Raise errors of SQLAlchemy as those of our stores."""
    from sqlalchemy.exc import SQLAlchemyError

    from chatring.stores.sql_errors import store_error

    try:
        yield
    except SQLAlchemyError as error:
        raise store_error(error, without_secrets(url)) from error
