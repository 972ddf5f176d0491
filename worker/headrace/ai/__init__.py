"""Models as durable steps: chat, tools, embeddings, agents. Extra `ai`.

::

    from headrace.ai import Agent, OpenAI
    from headrace.sdk import App, Context

    app = App("desk")

    @app.step
    async def order_state(number: int) -> str: ...

    support = Agent(app, "support", provider=OpenAI(), model="…", tools=[order_state])

    @app.workflow
    async def answer(ctx: Context, question: str) -> str:
        return (await support.run(ctx, question)).text

Each model call and each tool call is a step: recorded once, retried by its policy, never asked
again after a crash. `headrace.ai.handlers` has the same for YAML (``uses: ai/chat``), and what
retrieval needs (``uses: rag/load``, …).
"""

from headrace.ai.agent import Agent, AgentResult, AgentStopped
from headrace.ai.anthropic import Anthropic
from headrace.ai.chat import (
    ChatProvider,
    ChatReply,
    ChatRequest,
    EmbeddingProvider,
    Message,
    ProviderError,
    StreamingProvider,
    ToolCall,
    ToolSpec,
    Usage,
)
from headrace.ai.openai import OpenAI
from headrace.ai.scripted import HashEmbeddings, Scripted

__all__ = [
    "Agent",
    "AgentResult",
    "AgentStopped",
    "Anthropic",
    "ChatProvider",
    "ChatReply",
    "ChatRequest",
    "EmbeddingProvider",
    "HashEmbeddings",
    "Message",
    "OpenAI",
    "ProviderError",
    "Scripted",
    "StreamingProvider",
    "ToolCall",
    "ToolSpec",
    "Usage",
]
