"""Without its extra, an import says what to install. This needs none of them, and runs everywhere."""

from __future__ import annotations

import subprocess
import sys

EXTRAS = {
    "backends.dynamodb": ("aioboto3", "dynamodb"),
    "integrations.agentflow": ("injectq", "agentflow"),
    "integrations.claude_agent": ("claude_agent_sdk", "claude-agent-sdk"),
    "integrations.fastapi": ("fastapi", "fastapi"),
    "integrations.google_adk": ("google.adk", "google-adk"),
    "integrations.langgraph": ("langgraph", "langgraph"),
    "integrations.openai_agents": ("agents", "openai-agents"),
    "integrations.opentelemetry": ("opentelemetry", "opentelemetry"),
    "integrations.probes": ("fastapi", "fastapi"),
    "integrations.prometheus": ("prometheus_client", "prometheus"),
    "integrations.pyagenity": ("injectq", "agentflow"),
    "integrations.pydantic_ai": ("pydantic_ai", "pydantic-ai"),
}
IMPORT = f"""
import importlib, sys
sys.modules |= {{package: None for package, _ in {EXTRAS!r}.values()}}  # as if they were not installed
for module in {EXTRAS!r}:
    try:
        importlib.import_module("agent_persistence." + module)
    except ImportError as error:
        print(type(error).__name__, error.extra, error)
"""


def test_an_import_without_its_extra_says_what_to_install() -> None:
    said = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout

    assert said.splitlines() == [
        f"MissingExtraError {extra} not installed; run: pip install 'agent-persistence[{extra}]'"
        for _, extra in EXTRAS.values()
    ]
