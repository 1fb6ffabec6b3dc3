"""`chatring backup`: copies the database of a SQLite store."""

import os

import click

from chatring.cli.refusal import refusals
from chatring.cli.terminal import one_line
from chatring.migration import back_up
from chatring.stores.redaction import without_secrets


@click.command()
@click.argument("url", metavar="URL")
@click.argument("file", type=click.Path())
def backup(url: str, file: str) -> None:
    """Copy the database of the SQLite store at a URL, as it is at one moment, to a new FILE.

    Programs may use the store meanwhile. Copying the file itself would miss what is in the log beside it. FILE appears
    when it is complete, and replaces nothing. It is a store again: sqlite:///FILE.
    """
    with refusals():
        back_up(url, file)
    click.echo(one_line(f"{without_secrets(url)} is in {file}, {os.path.getsize(file):,} bytes"))
