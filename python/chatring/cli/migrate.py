"""`chatring migrate`: copies sessions into a store."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console

from chatring.cli.options import (
    ENCODING,
    Measure,
    StartOn,
    counting_options,
    given_options,
    measure_options,
    start_on_option,
)
from chatring.cli.progress import copying_bar
from chatring.cli.refusal import Refusal, refusals
from chatring.cli.table import new_console, new_table
from chatring.cli.terminal import amount, one_line
from chatring.migration import (
    CHATRING,
    LAYOUTS,
    Memories,
    Migration,
    QueueSource,
    StorePolicy,
    is_url,
    migrate,
    open_source,
)
from chatring.stores.redaction import without_secrets

# The most names shown of what was left out.
_NAMED = 5
# The option that also applies to sessions of LlamaIndex's Memory.
_COUNTER = {"counter"}
_COUNTS = ("sessions", "messages", "tokens")


@click.command("migrate")
@click.argument("source_location", metavar="FROM")
@click.argument("target_url", metavar="TO")
@click.option("--layout", type=click.Choice(list(LAYOUTS)), help="Whose sessions FROM has.  [default: find out]")
@click.option(
    "--table", metavar="NAME", help="The table to read in another library's database.  [default: the only one]"
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace sessions whose messages differ in TO, and recount those that TO counts differently.",
)
@click.option(
    "--as-histories",
    is_flag=True,
    help="Make histories of the sessions of LlamaIndex's Memory, with archived and active messages.",
)
@measure_options
@start_on_option
@counting_options(f"{ENCODING}; for LlamaIndex cl100k_base")
def migrate_sessions(
    source_location: str,
    target_url: str,
    layout: str | None,
    table: str | None,
    overwrite: bool,
    as_histories: bool,
    measure: Measure | None,
    format_name: str | None,
    start_on: StartOn | None,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Copy all sessions of FROM into the store at the URL TO, and verify them.

    TO is sqlite:///chat.db, postgresql://... or redis://... FROM is the URL of such a store, or of a database with the
    sessions of LlamaIndex's chat stores or Memory, OpenAI Agents, or LangChain's histories. Or it is a file: a chat
    store or memory that LlamaIndex wrote, or conversations as in `chatring window`. A conversation's key is its own id
    or its number; if there is only one, it is the file's name.

    LlamaIndex's sessions are stored as its drop-ins read them, those of a store as they are there, and others as JSON.
    The options change that. For sessions of LlamaIndex's Memory, archived messages stay archived and active ones
    active. --measure, --start-on and --format do not apply to them, unless they become histories.

    What TO already has is not copied again, so an interrupted migration goes on when it is run again. FROM is not
    changed.
    """
    given = given_options(encoding, model, measure, start_on, format_name)
    with contextlib.ExitStack() as opened, refusals(), _resumable():
        if not is_url(target_url):
            raise Refusal(
                f"TO must be the URL of a store, such as sqlite:///chat.db; got {without_secrets(target_url)}"
            )
        target = StorePolicy().open(target_url)
        if target.is_in_memory:
            raise Refusal(f"{without_secrets(target_url)} would be gone when the command ends")
        layouts = [layout] if layout else list(LAYOUTS)
        if source_location == target_url:  # a store has nothing to copy from itself
            layouts = [other for other in layouts if other != CHATRING]
            if not layouts:
                raise Refusal("FROM and TO are the same store")
        source = open_source(source_location, layouts=layouts, table=table)
        opened.callback(source.close)
        if (
            not as_histories
            and isinstance(source, QueueSource)
            and not source.has_histories
            and given.keys() - _COUNTER
        ):
            raise Refusal(
                f"{source.name} has sessions of LlamaIndex's Memory, which has its own measure and rule; "
                "--as-histories makes histories of them"
            )
        policy = source.policy.changed(given)
        target = policy.open(target_url)
        opened.callback(target.close)
        keys = source.keys()
        with copying_bar(len(keys)) as progress:
            task = progress.task_ids[0]
            migration = migrate(
                source,
                keys,
                target,
                memories=None if as_histories else Memories(target, given.get("counter")),
                overwrite=overwrite,
                advanced=lambda sessions: progress.update(task, completed=sessions),
            )
        policy = migration.policy_of_all or policy
        report = MigrationReport(source.name, without_secrets(target_url), policy, migration, source.left_out())
    if as_json:
        of_memory = {"archived": migration.archived, "remarks": migration.remarks} if migration.archived else {}
        click.echo(json.dumps({**report.record(), **of_memory}))
    else:
        report.show(console := new_console())
        _show_memories(console, migration, policy)
    for key, reason in migration.failed.items():
        Refusal(f"session {key!r}: {reason}").show()
    if migration.failed:
        sys.exit(Refusal.exit_code)


@dataclass(frozen=True)
class MigrationReport:
    """What was copied from where, and what was not."""

    source: str
    target: str
    policy: StorePolicy
    migration: Migration
    left_out: list[str]

    def record(self) -> dict[str, Any]:
        """Return the report as JSON's values."""
        return {
            "from": self.source,
            "to": self.target,
            "encoding": self.policy.counter,
            "measure": self.policy.measure,
            "start_on": self.policy.start_on,
            "format": self.policy.format,
            **{name.replace(" ", "_"): dict(zip(_COUNTS, sums, strict=True)) for name, *sums in self._sums()},
            "not_copied": self.migration.failed,
            "left_out": self.left_out,
        }

    def show(self, console: Console) -> None:
        """Print how much was copied. What was not copied is for standard error."""
        table = new_table("", *(f">{name}" for name in _COUNTS))
        for name, *sums in self._sums():
            table.add_row(name, *(f"{number:,}" for number in sums))
        if self.migration.failed:
            table.add_row("not copied", f"{len(self.migration.failed):,}", style="bold red")
        console.print(table)
        console.print()
        console.print(one_line(f"from: {self.source}"))
        console.print(one_line(f"to: {self.target}"))
        console.print(f"counted by: {self.policy.name}")
        verified = amount(len(self.migration.copied) + len(self.migration.already_there), "session")
        console.print(f"verified: messages and tokens of {verified} are the same in both")
        if self.left_out:
            names = ", ".join(self.left_out[:_NAMED]) + (", ..." if len(self.left_out) > _NAMED else "")
            console.print(one_line(f"left out because it is not a session: {names}"), style="dim")

    def _sums(self) -> Iterable[tuple[Any, ...]]:
        for name, counts in (("copied", self.migration.copied), ("already there", self.migration.already_there)):
            yield name, len(counts), *(sum(column) for column in zip((0, 0), *counts.values(), strict=True))


def _show_memories(console: Console, migration: Migration, shown: StorePolicy) -> None:
    """Print what the report does not show for sessions of LlamaIndex's `Memory`."""
    if not migration.archived:
        return
    sessions = amount(len(migration.archived), "session")
    messages = amount(sum(migration.archived.values()), "archived message")
    console.print(f"of LlamaIndex's Memory: {sessions} with {messages}")
    for name in sorted({*migration.counted_by.values()} - {shown.name}):
        console.print(one_line(f"of these counted by: {name}"))
    for key, remark in migration.remarks.items():
        console.print(one_line(f"session {key!r}: {remark}"))


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted: what has been copied stays, and the same command goes on from there.", err=True)
        raise
