"""Reading databases that may not be ours: without making tables, as `SQLStore` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chatring.stores.url import without_secrets

if TYPE_CHECKING:
    from sqlalchemy import Engine


def engine_of(url: str) -> Engine:
    """Return an engine for the URL of a `SQLStore`."""
    from sqlalchemy import create_engine, make_url

    parsed = make_url(url)
    if url.startswith("postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(parsed.difference_update_query(["synchronous"]), hide_parameters=True)


@contextmanager
def sql_errors(url: str) -> Iterator[None]:
    """Raise errors of SQLAlchemy as those of our stores."""
    from sqlalchemy.exc import SQLAlchemyError

    from chatring.stores.sql_errors import store_error

    try:
        yield
    except SQLAlchemyError as error:
        raise store_error(error, without_secrets(url)) from error
