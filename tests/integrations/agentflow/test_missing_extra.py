"""Without the extra, the import says what to install; this needs no framework, and runs everywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = """
import sys
sys.modules["injectq"] = None  # as if it were not installed
try:
    import agent_persistence.integrations.{module}
except ImportError as error:
    print(type(error).__name__, error.extra, error)
"""


@pytest.mark.parametrize("module", ["agentflow", "pyagenity"])
def test_an_import_without_the_extra_says_what_to_install(module: str) -> None:
    program = IMPORT.format(module=module)

    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert process.stdout.startswith("MissingExtraError agentflow ")
    assert "pip install 'agent-persistence[agentflow]'" in process.stdout
