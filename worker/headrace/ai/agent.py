"""`Agent`: a model that calls tools until it is done, as steps of a durable workflow.

Nothing here is remembered but by the journal: each answer of the model and each result of a tool
is a recorded step, each wait for a person a signal. A replay goes the same way again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from headrace.ai.chat import (
    ChatProvider,
    ChatReply,
    ChatRequest,
    Message,
    ProviderError,
    StreamingProvider,
    ToolCall,
    ToolSpec,
    Usage,
)
from headrace.errors import HeadraceError, InvalidRequest
from headrace.sdk import (
    App,
    Context,
    NonRetryable,
    Operation,
    OperationFailed,
    Retry,
    Step,
    step_info,
)
from headrace.sdk import Duration as Duration

TURNS_MAX: Final = 20
RESULT_CHARS_MAX: Final = 50_000
"""Of a tool's result, as the model gets it; the journal has all of it."""
MODEL_RETRY: Final = Retry(5, initial=2.0, maximum=60.0)
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
Approval: TypeAlias = bool | Collection[str] | Callable[[ToolCall], bool]
"""Which tools a person must allow: all, those of these names, or those for which it says so."""


class Decision(msgspec.Struct, frozen=True):
    """Payload of the signal that answers a wish for approval."""

    approved: bool
    comment: str = ""
    """Told to the model when it is not."""


class Recorded(msgspec.Struct, frozen=True):
    """What the journal has of one model call."""

    reply: ChatReply
    provider: str
    model: str
    """The one that was asked for; `reply.model` has answered."""
    parameters: dict[str, Any]


class AgentResult(msgspec.Struct, frozen=True):
    """What came of it."""

    text: str
    """The model's last words."""
    turns: int
    usage: Usage
    stopped: str = ""
    """Empty: it was done. `turns` or `tokens`: the budget was used up."""
    messages: list[Message] = []


class AgentStopped(HeadraceError):
    """The budget is used up; `result` has how far it came. Raised with ``on_budget="fail"``."""

    code = "agent-stopped"

    def __init__(self, result: AgentResult) -> None:
        super().__init__(f"the budget of {result.stopped} is used up after {result.turns} turns")
        self.result = result


class Agent:
    """A model with instructions and tools. Made once, beside its *app*, before any run."""

    def __init__(
        self,
        app: App,
        name: str,
        *,
        provider: ChatProvider,
        model: str,
        instructions: str = "",
        tools: Sequence[Step[Any, Any]] = (),
        approve: Approval = False,
        approval_timeout: Duration | None = None,
        turns_max: int = TURNS_MAX,
        tokens_max: int = 0,
        temperature: float | None = None,
        max_tokens: int = 1_024,
        retry: Retry = MODEL_RETRY,
        timeout: Duration = 180,
        on_budget: str = "return",
        stream: str = "",
    ) -> None:
        """*tools* are steps of *app*: their docstrings and annotations tell the model of them.

        *approve*: before such a tool is called, the run waits for the signal
        ``<name>-approval`` with the call's id as correlation key, at most *approval_timeout*; no
        answer is a no. *turns_max* model calls, *tokens_max* tokens in all (0: no limit; looked
        at before each turn, so the last one may go beyond). *stream*: where the model's words are
        told as they come, ``{"attempt": 1, "text": "…"}`` each; the journal has the whole answer.
        Raises `InvalidRequest`, also for a *stream* with a provider that cannot do that.
        """
        if on_budget not in ("return", "fail"):
            raise InvalidRequest("on_budget is 'return' or 'fail'")
        if turns_max < 1 or tokens_max < 0:
            raise InvalidRequest("turns_max is 1 or more, tokens_max 0 or more")
        if stream and not isinstance(provider, StreamingProvider):
            raise InvalidRequest(f"provider {provider.name} answers in one piece: no stream")
        self.name, self._provider, self._model = name, provider, model
        self._stream = stream
        self._instructions, self._approve = instructions, approve
        self._approval_timeout = approval_timeout
        self._turns_max, self._tokens_max, self._on_budget = turns_max, tokens_max, on_budget
        self._temperature, self._max_tokens = temperature, max_tokens
        self._tools = {_tool_name(tool): tool for tool in tools}
        self.specs = [tool_spec(tool) for tool in tools]
        """What the model is told of the tools."""
        self._ask = app.step(name=f"{name}-model", retry=retry, timeout=timeout)(self._asked)

    async def _asked(self, request: ChatRequest) -> Recorded:
        """Ask the model: the step."""
        try:
            reply = await self._answer(request)
        except ProviderError as error:
            if not error.retryable:
                raise NonRetryable(f"{error.type}: {error.message}") from error
            raise
        return Recorded(reply, self._provider.name, request.model, parameters_of(request))

    async def _answer(self, request: ChatRequest) -> ChatReply:
        provider = self._provider
        if not self._stream or not isinstance(provider, StreamingProvider):
            return await provider.chat(request)
        info = step_info()

        def told(text: str) -> None:
            info.emit({"attempt": info.attempt, "text": text}, stream=self._stream)

        return await provider.stream(request, told)

    async def run(
        self, ctx: Context, prompt: str | Sequence[Message], *, emit: str = "agent"
    ) -> AgentResult:
        """Work on *prompt* until the model wants no more tools; in a workflow function.

        What happens is told on the stream *emit* as it happens (empty: not at all). Raises
        `StepFailed` when the model cannot be reached, `AgentStopped`.
        """
        said = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        usage, text, turns = Usage(), "", 0
        while not (stopped := self._exhausted(turns, usage)):
            turns += 1
            recorded = await ctx.step(self._ask, self._request(said))
            reply = recorded.reply
            used = reply.usage
            usage = Usage(
                usage.input_tokens + used.input_tokens, usage.output_tokens + used.output_tokens
            )
            text = reply.text
            said.append(Message("assistant", reply.text, calls=reply.calls))
            if emit:
                called = [call.name for call in reply.calls]
                ctx.emit({"turn": turns, "text": reply.text, "calls": called}, stream=emit)
            if not reply.calls:
                return AgentResult(text, turns, usage, "", said)
            for call in reply.calls:
                outcome = await self._called(ctx, call)
                said.append(Message("tool", outcome, call_id=call.id))
                if emit:
                    ctx.emit({"turn": turns, "tool": call.name, "result": outcome}, stream=emit)
        result = AgentResult(text, turns, usage, stopped, said)
        if self._on_budget == "fail":
            raise AgentStopped(result)
        return result

    def _exhausted(self, turns: int, usage: Usage) -> str:
        if turns >= self._turns_max:
            return "turns"
        return "tokens" if self._tokens_max and usage.total >= self._tokens_max else ""

    def _request(self, said: Sequence[Message]) -> ChatRequest:
        return ChatRequest(
            model=self._model,
            messages=list(said),
            system=self._instructions,
            tools=self.specs,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
        )

    async def _called(self, ctx: Context, call: ToolCall) -> str:
        """Return what the model is told of a call; a tool's failure is for it to deal with."""
        tool = self._tools.get(call.name)
        if tool is None:
            return f"error: there is no tool {call.name!r}; there are {', '.join(self._tools)}"
        if self._must_be_allowed(call):
            decision = await self._decision(ctx, call)
            if not decision.approved:
                return f"error: not allowed{': ' if decision.comment else ''}{decision.comment}"
        try:
            typed = tool.signature.from_map(msgspec.msgpack.encode(call.arguments))
            operation: Operation[Any] = ctx.step(tool, **typed)
            found = await operation
        except InvalidRequest as error:
            return f"error: {error}"
        except OperationFailed as error:
            return f"error: {error.type}: {error.message}"
        shown = found if isinstance(found, str) else msgspec.json.encode(found).decode()
        return shown[:RESULT_CHARS_MAX]

    def _must_be_allowed(self, call: ToolCall) -> bool:
        rule = self._approve
        if isinstance(rule, bool):
            return rule
        return rule(call) if callable(rule) else call.name in rule

    async def _decision(self, ctx: Context, call: ToolCall) -> Decision:
        wish = {"approve": call.name, "id": call.id, "arguments": call.arguments}
        ctx.emit(wish, stream="approvals")
        return await ctx.signal(
            f"{self.name}-approval",
            Decision,
            timeout=self._approval_timeout,
            default=Decision(False, "nobody has answered in time"),
            correlation_key=call.id,
        )


def parameters_of(request: ChatRequest) -> dict[str, Any]:
    """Return what decides an answer beside what is said, for evidence."""
    told: dict[str, Any] = {"max_tokens": request.max_tokens}
    if request.temperature is not None:
        told["temperature"] = request.temperature
    return told | request.extra


def _tool_name(tool: Step[Any, Any]) -> str:
    name = tool.name
    if _TOOL_NAME.fullmatch(name) is None:
        raise InvalidRequest(f"a tool's name has letters, digits, - and _, at most 64: {name!r}")
    return name


def tool_spec(tool: Step[Any, Any]) -> ToolSpec:
    """Return what a model is told of a step: name, docstring, JSON Schema of its parameters.

    Raises `InvalidRequest` for parameters without a form in JSON Schema.
    """
    signature = tool.signature
    hints: Mapping[str, Any] = signature.hints
    names = [name for name in signature.names if name in hints]
    try:
        schemas, shared = msgspec.json.schema_components(
            [hints[name] for name in names], ref_template="#/$defs/{name}"
        )
    except TypeError as error:
        raise InvalidRequest(f"tool {tool.name}: {error}") from error
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": dict(zip(names, schemas, strict=True)),
        "required": [name for name in names if name in signature.required],
    }
    if shared:
        parameters["$defs"] = dict(shared)
    return ToolSpec(_tool_name(tool), (tool.function.__doc__ or "").strip(), parameters)
