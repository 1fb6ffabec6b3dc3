"""Bad input, as one line on standard error."""

import contextlib
from collections.abc import Iterator

import click

from chatring.cli.terminal import one_line
from chatring.stores import StoreError
from chatring.stores.redaction import without_secrets

# What to install, by the package that is missing.
_EXTRAS = {
    "agent_framework": "agent-framework",
    "langchain": "langchain",
    "llama_index": "llama-index",
    "psycopg": "postgresql",
    "pydantic_ai": "pydantic-ai",
    "redis": "redis",
}


class Refusal(click.ClickException):
    """Bad input: one line on standard error, exit status 2."""

    exit_code = 2

    def __init__(self, reason: object) -> None:
        super().__init__(one_line(str(reason)))


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn the errors of stores and sources into one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise Refusal(f"this needs {package}: pip install 'chatring[{_EXTRAS[package]}]'") from error
    except (StoreError, ValueError) as error:
        raise Refusal(error) from error
    except OSError as error:
        raise Refusal(f"{without_secrets(str(error.filename))}: {error.strerror}") from error
