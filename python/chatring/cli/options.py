"""Options that several subcommands have, and what they mean."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar

import click

from chatring._core import TokenCounter
from chatring.cli.refusal import Refusal
from chatring.migration import FORMATS

Command = TypeVar("Command", bound=Callable[..., Any])
Measure: TypeAlias = Literal["message", "text"]
StartOn: TypeAlias = Literal["user", "none"]

# The default encoding of rings and stores.
ENCODING = "o200k_base"


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def counting_options(default: str) -> Callable[[Command], Command]:
    """Return what adds the options of a counter, and `--json`. `default` is the default encoding, for the help."""

    def add_options(command: Command) -> Command:
        for option in (
            json_option,
            click.option("--model", metavar="NAME", help="Count with the encoding of this model, such as gpt-4o."),
            click.option(
                "--encoding",
                "--counter",
                "encoding",
                metavar="NAME",
                help=f"Count with this encoding.  [default: {default}]",
            ),
        ):
            command = option(command)
        return command

    return add_options


def start_on_option(command: Command) -> Command:
    """Add `--start-on`."""
    return click.option(
        "--start-on",
        type=click.Choice(["user", "none"]),
        help="user: begin with a user message, or a step with its question in front. none: begin with any message but "
        "a reply or a result.  [default: user]",
    )(command)


def start_options(command: Command) -> Command:
    """Add the options for where a window begins."""
    include_system = click.option(
        "--include-system/--no-include-system",
        default=None,
        help="Whether the leading system messages are in every window.  [default: they are]",
    )
    return start_on_option(include_system(command))


def conversation_option(command: Command) -> Command:
    """Add `--conversation`."""
    return click.option(
        "--conversation", "chosen", type=int, metavar="N", help="Take only conversation N; the first is 1."
    )(command)


def measure_options(command: Command) -> Command:
    """Add the options for what of a message counts."""
    for option in (
        click.option("--format", "format_name", type=click.Choice(FORMATS), help="Whose messages they are."),
        click.option(
            "--measure",
            type=click.Choice(["message", "text"]),
            help="message: count all that is sent of a message. text: count the texts, joined.  [default: message]",
        ),
    ):
        command = option(command)
    return command


def history_options(command: Command) -> Command:
    """Add the arguments and options for a history: in a file, or a session in a store."""
    for option in (
        measure_options,
        click.option("--skip-invalid", is_flag=True, help="Skip damaged lines, and say how many there were."),
        click.argument("session", required=False),
        click.argument("file", metavar="FILE|URL", type=click.Path(allow_dash=True)),
    ):
        command = option(command)
    return command


def given_options(
    encoding: str | None,
    model: str | None,
    measure: Measure | None,
    start_on: StartOn | None,
    format_name: str | None,
) -> dict[str, Any]:
    """Return the options of a policy that are given, by their names in `StorePolicy`."""
    given: dict[str, Any] = {}
    if encoding is not None or model is not None:
        given["counter"] = _counter(encoding, model).name
    if measure is not None:
        given["measure"] = measure
    if start_on is not None:
        given["start_on"] = None if start_on == "none" else start_on
    if format_name is not None:
        given["format"] = format_name
    return given


def refuse_both(chosen: int | None, as_one: bool) -> None:
    """Refuse `--conversation` beside `--concatenate`."""
    if chosen is not None and as_one:
        raise Refusal("--conversation and --concatenate exclude each other")


def _counter(encoding: str | None, model: str | None) -> TokenCounter:
    if encoding is not None and model is not None:
        raise Refusal("--encoding and --model exclude each other")
    try:
        if model is not None:
            return TokenCounter.for_model(model)
        return TokenCounter(ENCODING if encoding is None else encoding)
    except ValueError as error:
        raise Refusal(error) from error
