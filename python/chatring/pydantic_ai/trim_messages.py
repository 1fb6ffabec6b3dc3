"""`TrimMessages`: a capability that sends the model no more than fits a token limit."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from pydantic_ai.capabilities import AbstractCapability, WrapRunHandler
from pydantic_ai.messages import ModelMessage, ModelRequest, SystemPromptPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import AgentDepsT, RunContext

from chatring import MessageRing
from chatring.pydantic_ai.authors import UNKNOWN, Authors
from chatring.pydantic_ai.message_format import ModelMessageFormat
from chatring.pydantic_ai.requests import Pieces
from chatring.trimmer import Measure, Trimmer
from chatring.window import positions_of

_FORMAT = ModelMessageFormat()


@dataclass
class TrimMessages(AbstractCapability[AgentDepsT]):
    """Trims each model request to the window of its messages: system prompts, question, and the last steps that fit.

    Only the request is trimmed. `ctx.messages`, `result.all_messages()` and `result.new_messages()` keep everything.
    Where messages do not tell the user's question from what a tool returned beside a result, a request has both.

    Args:
        token_limit: tokens that a request may have, at least 1. The agent's instructions are counted.
        counter: counts the texts: an encoding's name, or whatever else `TokenCounter` takes.
        measure: what a message's tokens are: `"message"`, or a callable from a `ModelMessage` to an int.
        initial_token_count: tokens of what else is sent, such as the tools' schemas.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to. Below 1,
            the next requests begin as this one, which the provider's prompt cache knows. Then a run's first request
            counts its whole history.

    Raises:
        TypeError, ValueError: as `MessageRing`, and for a negative `initial_token_count`. In a run ValueError, with the
            numbers, if the system prompts, the instructions and `initial_token_count` exceed the limit.
    """

    token_limit: int
    counter: Any = "o200k_base"
    _: KW_ONLY
    measure: Measure[ModelMessage] = "message"
    initial_token_count: int = 0
    retention_ratio: float = 1.0
    _trimmer: Trimmer[ModelMessage] = field(init=False, repr=False, compare=False)
    # Of one run, whose requests begin alike: what was counted for one is not counted again for the next.
    _ring: MessageRing[ModelMessage] = field(init=False, repr=False, compare=False)
    _pieces: Pieces = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._trimmer = Trimmer(
            self.token_limit,
            counter=self.counter,
            measure=self.measure,
            retention_ratio=self.retention_ratio,
            initial_token_count=self.initial_token_count,
            format=_FORMAT,
        )
        self._pieces = Pieces()
        self._ring = self._trimmer.new_ring()

    async def for_run(self, ctx: RunContext[AgentDepsT]) -> TrimMessages[AgentDepsT]:
        """Return one for a run of its own."""
        capability = replace(self)
        # A run that resumes a request has the user's prompt in that one.
        resumes = ctx.prompt is None and ctx.messages and isinstance(ctx.messages[-1], ModelRequest)
        capability._pieces = Pieces(authors=Authors(UNKNOWN if resumes else ctx.prompt, ctx.run_id))
        return capability

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Look at the messages that the run begins with before Pydantic AI merges them."""
        self._pieces.authors.note(ctx.messages)
        return await handler()

    async def before_model_request(
        self, ctx: RunContext[AgentDepsT], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Replace the request's messages by their window."""
        ring, pieces = self._ring, self._pieces
        known = min(pieces.update(request_context.messages), len(ring))
        while len(ring) > known:
            ring.pop()
        ring.put_messages(pieces.all[known:])
        beside = self._trimmer.beside(instructions=self._instructions(request_context))
        if kept := self._kept(beside):
            request_context.messages = pieces.joined(kept)
        return request_context

    def _kept(self, beside: int) -> list[int]:
        """Return the positions of the pieces that are sent, if not all are."""
        ring, pieces = self._ring, self._pieces
        more = 0  # tokens of questions that come along, in case the newest is a tool's content
        while True:
            window = ring.window(initial_token_count=beside + more)
            # Results alone have no window. Pydantic AI needs a request at the end, and repairs that one.
            if not 0 < len(window) < len(ring):
                return []
            positions = positions_of(window)
            # A system prompt that was popped leaves the ring's positions behind the head one ahead.
            ahead = positions[-1] + 1 - len(ring)
            head, behind = positions[: window.head], [position - ahead for position in positions[window.head :]]
            room = self.token_limit - beside - sum(map(ring.count, window[: window.head]))
            earlier = self._that_fit(pieces.questions_before(behind[0]), room) if behind else []
            tokens = min(sum(map(self._tokens_of, earlier)), room)
            if tokens <= more:
                return [*head, *earlier, *behind]
            more = tokens

    def _that_fit(self, questions: list[int], room: int) -> list[int]:
        """Return the oldest of some questions, which is certain, and the newest others that take half of the room."""
        # The certain one is not enough: the user's question may be behind it, and in front of a tool's content.
        if not questions:
            return []
        certain, *others = questions
        left = room // 2 - self._tokens_of(certain)
        fitting: list[int] = []
        for question in reversed(others):
            if (tokens := self._tokens_of(question)) <= left:
                left -= tokens
                fitting.append(question)
        return [certain, *reversed(fitting)]

    def _tokens_of(self, piece: int) -> int:
        return self._ring.count(self._pieces.all[piece])

    def _instructions(self, request_context: ModelRequestContext) -> int:
        """Return the tokens of the instructions, which are sent as a system prompt."""
        parts = request_context.model_request_parameters.instruction_parts
        if not parts:
            return 0
        text = "\n\n".join(part.content for part in parts)
        return self._trimmer.count(ModelRequest(parts=[SystemPromptPart(text)]))

    @classmethod
    def get_serialization_name(cls) -> str | None:
        """Return None: a counter or measure has no place in an agent's specification."""
        return None
