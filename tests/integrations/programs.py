"""The frameworks that are installed: not all go together in one environment, and Agentflow needs Python 3.12."""

from __future__ import annotations

from importlib.util import find_spec

from integrations.conversations import Core, LangGraph, OpenAI, Program

PROGRAMS: list[type[Program]] = [Core, OpenAI, LangGraph]

if find_spec("claude_agent_sdk"):
    from integrations.claude_agent.conversation import Claude

    PROGRAMS.append(Claude)
if find_spec("google") and find_spec("google.adk"):
    from integrations.google_adk.conversation import ADK

    PROGRAMS.append(ADK)
if find_spec("pydantic_ai"):
    from integrations.pydantic_conversations.conversation import PydanticAI

    PROGRAMS.append(PydanticAI)
if find_spec("agentflow") and find_spec("pyagenity"):
    from integrations.agentflow.conversation import Agentflow, PyAgenity

    PROGRAMS += [Agentflow, PyAgenity]
