"""Public names: modules, the names of the package, and deprecated ones of 0.1.0."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import agent_persistence
from agent_persistence import errors

REPOSITORY = Path(__file__).parents[2]
PUBLIC_MODULES = [
    "agent_persistence",
    "agent_persistence.backends.dynamodb",
    "agent_persistence.backends.memory",
    "agent_persistence.backends.postgresql",
    "agent_persistence.backends.redis",
    "agent_persistence.checkpointer",
    "agent_persistence.cli",
    "agent_persistence.degraded",
    "agent_persistence.embedded",
    "agent_persistence.encoding.cursors",
    "agent_persistence.encoding.exact_json",
    "agent_persistence.errors",
    "agent_persistence.ids",
    "agent_persistence.integrations.claude_agent",
    "agent_persistence.integrations.fastapi",
    "agent_persistence.integrations.google_adk",
    "agent_persistence.integrations.langgraph",
    "agent_persistence.integrations.openai_agents",
    "agent_persistence.integrations.opentelemetry",
    "agent_persistence.integrations.probes",
    "agent_persistence.integrations.prometheus",
    "agent_persistence.integrations.pydantic_ai",
    "agent_persistence.migrate",
    "agent_persistence.models",
    "agent_persistence.orm",
    "agent_persistence.persistence",
    "agent_persistence.records",
    "agent_persistence.settings",
    "agent_persistence.shared",
    "agent_persistence.testing",
    "agent_persistence.transfer.conversations",
    "agent_persistence.transfer.langgraph",
    "agent_persistence.validation",
]
NEED_PYTHON_3_12 = ["agent_persistence.integrations.agentflow", "agent_persistence.integrations.pyagenity"]
IMPORT = re.compile(r"(?:from|import) (agent_persistence(?:\.[a-z_]+)*)")
RENAMED_ERRORS = [
    "CommitUnknown",
    "CorruptRow",
    "IdempotencyConflict",
    "InvalidInput",
    "LockTimeout",
    "MigrationLockTimeout",
    "PoolTimeout",
    "StateConflict",
    "StatementTimeout",
    "UniqueConflict",
]


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_a_public_module_can_be_imported_and_is_not_called_internal(name: str) -> None:
    text = importlib.import_module(name).__doc__

    assert text
    assert not text.startswith("Internal")


def test_documents_import_public_modules_only() -> None:
    documents = [
        REPOSITORY / "README.md",
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "examples").rglob("*.py"),
    ]
    named = {name for document in documents for name in IMPORT.findall(document.read_text())}

    assert len(named) > 10
    assert named - {*PUBLIC_MODULES, *NEED_PYTHON_3_12} == set()


@pytest.mark.parametrize("name", agent_persistence.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(agent_persistence, name) is not None


@pytest.mark.parametrize("module", [agent_persistence, errors], ids=lambda module: module.__name__)
@pytest.mark.parametrize("name", RENAMED_ERRORS)
def test_the_old_name_of_an_error_is_the_same_class_and_warns(name: str, module: object) -> None:
    with pytest.warns(DeprecationWarning, match=f"{name}Error") as warned:
        old = getattr(module, name)

    assert old is getattr(errors, f"{name}Error")
    assert warned[0].filename == __file__


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NeverThere"):
        agent_persistence.NeverThere  # type: ignore[attr-defined]  # noqa: B018 - that is the test


def test_every_error_that_can_be_raised_is_public_and_ends_in_error() -> None:
    classes = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)}

    assert {name for name in classes if not name.endswith("Error")} == set()
    assert classes <= set(agent_persistence.__all__)
