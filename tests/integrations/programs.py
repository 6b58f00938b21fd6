"""The frameworks that are installed: the Claude Agent SDK is an extra of its own, Agentflow needs Python 3.12."""

from __future__ import annotations

from importlib.util import find_spec

from integrations.conversations import Core, LangGraph, OpenAI, Program

PROGRAMS: list[type[Program]] = [Core, OpenAI, LangGraph]

if find_spec("claude_agent_sdk"):
    from integrations.claude_agent.conversation import Claude

    PROGRAMS.append(Claude)
if find_spec("agentflow") and find_spec("pyagenity"):
    from integrations.agentflow.conversation import Agentflow, PyAgenity

    PROGRAMS += [Agentflow, PyAgenity]
