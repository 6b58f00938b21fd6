"""Without its extra, an import says what to install. This needs none of them, and runs everywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = """
import importlib, sys
sys.modules[{package!r}] = None  # as if it were not installed
try:
    importlib.import_module({module!r})
except ImportError as error:
    print(type(error).__name__, error.extra, error)
"""


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("backends.dynamodb", "aioboto3", "dynamodb"),
        ("integrations.agentflow", "injectq", "agentflow"),
        ("integrations.claude_agent", "claude_agent_sdk", "claude-agent-sdk"),
        ("integrations.fastapi", "fastapi", "fastapi"),
        ("integrations.langgraph", "langgraph", "langgraph"),
        ("integrations.openai_agents", "agents", "openai-agents"),
        ("integrations.opentelemetry", "opentelemetry", "opentelemetry"),
        ("integrations.probes", "fastapi", "fastapi"),
        ("integrations.prometheus", "prometheus_client", "prometheus"),
        ("integrations.pyagenity", "injectq", "agentflow"),
    ],
)
def test_an_import_without_its_extra_says_what_to_install(module: str, package: str, extra: str) -> None:
    program = IMPORT.format(module=f"agent_persistence.{module}", package=package)

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said == f"MissingExtraError {extra} not installed; run: pip install 'agent-persistence[{extra}]'\n"
