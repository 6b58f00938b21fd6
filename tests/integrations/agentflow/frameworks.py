"""The two frameworks by the same names, where they are installed: both need Python 3.12."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest

NAMES = ["agentflow", "pyagenity"]


@dataclass(frozen=True)
class Framework:
    name: str
    state: Any  # AgentState
    graph: Any  # StateGraph
    graph_end: str
    messages: Any  # the module of Message and its blocks
    thread_info: Any
    in_memory: Any
    ours: Any
    storage_error: type[Exception]
    transient_error: type[Exception]

    @property
    def message(self) -> Any:
        return self.messages.Message

    def text(self, text: str, role: str = "user", message_id: str | None = None) -> Any:
        return self.message.text_message(text, role, message_id)


def need_frameworks() -> None:
    """Skip a module where they are not installed."""
    if sys.version_info < (3, 12):
        pytest.skip("Agentflow and PyAgenity need Python 3.12: make test-agentflow", allow_module_level=True)
    for package in NAMES:
        if find_spec(package) is None:
            pytest.skip("needs the extra agentflow: make test-agentflow", allow_module_level=True)


def framework(name: str) -> Framework:
    """Import a framework."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of their own making
        return {"agentflow": _agentflow, "pyagenity": _pyagenity}[name]()


def _agentflow() -> Framework:
    from agentflow.core import exceptions, graph, state  # noqa: PLC0415 - where it is installed
    from agentflow.storage.checkpointer import InMemoryCheckpointer  # noqa: PLC0415 - where it is installed
    from agentflow.utils.constants import END  # noqa: PLC0415 - where it is installed
    from agentflow.utils.thread_info import ThreadInfo  # noqa: PLC0415 - where it is installed

    from agent_persistence.integrations.agentflow import PersistenceCheckpointer  # noqa: PLC0415 - where it is installed

    return Framework(
        name="agentflow",
        state=state.AgentState,
        graph=graph.StateGraph,
        graph_end=END,
        messages=state,
        thread_info=ThreadInfo,
        in_memory=InMemoryCheckpointer,
        ours=PersistenceCheckpointer,
        storage_error=exceptions.StorageError,
        transient_error=exceptions.TransientStorageError,
    )


def _pyagenity() -> Framework:
    from pyagenity import graph, state  # noqa: PLC0415 - where it is installed
    from pyagenity.checkpointer import InMemoryCheckpointer  # noqa: PLC0415 - where it is installed
    from pyagenity.exceptions import storage_exceptions as exceptions  # noqa: PLC0415 - where it is installed
    from pyagenity.utils.constants import END  # noqa: PLC0415 - where it is installed
    from pyagenity.utils.thread_info import ThreadInfo  # noqa: PLC0415 - where it is installed

    from agent_persistence.integrations.pyagenity import PersistenceCheckpointer  # noqa: PLC0415 - where it is installed

    return Framework(
        name="pyagenity",
        state=state.AgentState,
        graph=graph.StateGraph,
        graph_end=END,
        messages=state,
        thread_info=ThreadInfo,
        in_memory=InMemoryCheckpointer,
        ours=PersistenceCheckpointer,
        storage_error=exceptions.StorageError,
        transient_error=exceptions.TransientStorageError,
    )
