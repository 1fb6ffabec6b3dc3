"""What the contents of an ADK request are: all that nobody else says has the role `user` there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.adk.events import Event
from google.genai.types import Content

# How ADK begins what it writes into an agent's request about the others: releases differ in what follows.
_RELAYED = "For context:"
# Where an instruction begins that ADK sends among the contents, because the agent has a static one.
_INSTRUCTION = "<<<BEGIN_SYSTEM_INSTRUCTION>>>"


def is_users(content: Content) -> bool:
    """Return whether a request may begin with it: the role is `user`, and it has no function's response."""
    return content.role == "user" and not any(part.function_response for part in content.parts or ())


def is_relayed(content: Content) -> bool:
    """Return whether it is what another agent has done, as ADK tells it."""
    parts = content.parts or ()
    return len(parts) > 1 and (parts[0].text or "").startswith(_RELAYED)


def inserted(contents: Sequence[Content], asked: Content | None) -> Iterator[int]:
    """Yield the positions of what ADK has inserted for this request alone: instructions, and what a tool remembers.

    It does so among the newest contents of the user. An instruction is known by its mark, and whatever is behind
    the question is not the user's.

    Args:
        contents: of a request, oldest first.
        asked: the content that the user began the run with.
    """
    newest = next((place for place in range(len(contents), 0, -1) if not is_users(contents[place - 1])), 0)
    question = len(contents)
    if asked is not None and is_users(asked):
        question = next((place for place in range(len(contents) - 1, -1, -1) if contents[place] == asked), question)
    for place in range(newest, len(contents)):
        content = contents[place]
        if place == question or is_relayed(content):
            continue
        if place > question or any(_INSTRUCTION in (part.text or "") for part in content.parts or ()):
            yield place


def first_of(contents: Sequence[Content], events: Sequence[Event]) -> int:
    """Return the position of the first content that a request may begin with; 0 if there is none.

    That is one of the user's, or a summary that ADK's compaction has made. `num_recent_events` may cut a turn in two,
    and providers refuse what is left of it in front.

    Args:
        contents: of a request, oldest first.
        events: of the session.
    """
    summaries: list[Content] | None = None
    for place, content in enumerate(contents):
        if is_users(content):
            return place
        if summaries is None:
            made = [event.actions.compaction for event in events if event.actions.compaction]
            summaries = [each.compacted_content for each in made if each.compacted_content]
        if content in summaries:
            return place
    return 0


def spoken(contents: Sequence[Content], events: Sequence[Event]) -> list[Content]:
    """Return the contents, with what other agents did behind a question as a model's: it is not a question itself.

    Args:
        contents: of a request, oldest first.
        events: of the session. They tell what a user has said in ADK's words.
    """
    if not any(map(is_relayed, contents)):
        return list(contents)
    own: set[tuple[str | None, ...]] | None = None
    spoken: list[Content] = []
    asked = False
    for content in contents:
        if not is_users(content):
            spoken.append(content)
            continue
        is_own = not is_relayed(content)
        if not is_own:
            if own is None:
                said = [event.content for event in events if event.author == "user" and event.content]
                own = {_texts(each) for each in said if is_relayed(each)}
            is_own = _texts(content) in own
        if is_own:
            asked = True
            spoken.append(content)
        else:
            spoken.append(content.model_copy(update={"role": "model"}) if asked else content)
    return spoken


def _texts(content: Content) -> tuple[str | None, ...]:
    return tuple(part.text for part in content.parts or ())
