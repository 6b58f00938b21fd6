"""Other stores, each behind a small adapter; those that are not installed are left out, and named."""

from __future__ import annotations

from importlib import import_module

from benchmarks.contender import Contender, MissingContenderError

_ADAPTERS = {
    "langgraph": ("langgraph", "LangGraph"),
    "langgraph-per-task": ("langgraph", "LangGraphPerTask"),
    "openai-agents": ("openai_agents", "OpenAIAgents"),
    "adk": ("adk", "ADK"),
    "agno": ("agno_db", "Agno"),
    "agentflow": ("agentflow_store", "Agentflow"),
}
NAMES = tuple(_ADAPTERS)


def load(name: str) -> Contender:
    """Make a contender.

    Raises:
        MissingContenderError: its package is not installed.
    """
    module, kind = _ADAPTERS[name]
    try:
        contender: Contender = getattr(import_module(f"{__name__}.{module}"), kind)()
    except ImportError as error:
        raise MissingContenderError(f"{name}: not installed ({error})") from error
    return contender
