"""What the documents show works, and what they list is complete."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql

import agent_persistence
from agent_persistence import (
    STRING,
    Checkpointer,
    IdTypes,
    Persistence,
    PersistenceError,
    PersistenceSettings,
    build_models,
    embedded,
)
from agent_persistence.backends.dynamodb import DynamoDBCheckpointer
from agent_persistence.backends.memory import MemoryCheckpointer
from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.backends.redis import RedisCheckpointer
from agent_persistence.embedded import EmbeddedServers, postgres_binary
from agent_persistence.models.base import table_of
from agent_persistence.operations.cached_states import CachedStates
from agent_persistence.records import ANY_USER, UNSET
from agent_persistence.repositories import EntityRepository, MessageRepository, ThreadRepository, ToolResultRepository
from documents import ROOT, Reader, blocks, documents

DOCUMENTS = documents()
REFERENCE = ROOT / "docs" / "reference.md"
VARIABLES = {f"PERSISTENCE_{name.upper()}" for name in PersistenceSettings.model_fields}


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def rows(heading: str) -> list[list[str]]:
    """The rows of the table under a heading of the reference, without its first two."""
    _, _, below = REFERENCE.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    section = re.split(r"^#+ ", below, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def words(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


# --- examples ---


@pytest.mark.slow
@pytest.mark.parametrize("document", [path for path in DOCUMENTS if blocks(path)], ids=name_of)
def test_what_a_document_shows_works(
    document: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    servers: EmbeddedServers,
) -> None:
    found = blocks(document)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for limit in ("TIMEOUT", "BUDGET"):  # a busy machine is no cache that is down
        monkeypatch.setenv(f"PERSISTENCE_CACHE_{limit}_MS", "2000")
    if any(block.title == ".env" for block in found):  # it says which servers
        monkeypatch.setenv("PERSISTENCE_EMBEDDED_DIR", str(tmp_path / "servers"))
        embedded.start(tmp_path / "servers", durable=False)
        request.addfinalizer(lambda: embedded.stop(tmp_path / "servers"))
    else:
        make_database = request.getfixturevalue("make_database")
        monkeypatch.setenv("PERSISTENCE_DATABASE_URL", asyncio.run(make_database()))
        monkeypatch.setenv("PERSISTENCE_REDIS_URL", servers.redis_url)
        monkeypatch.setenv("PERSISTENCE_CACHE_NAMESPACE", tmp_path.name)
        set_addresses(document, monkeypatch, request)

    Reader(document, tmp_path).read(found)


def set_addresses(document: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Give the variables that a document's commands name: other databases, and other roles in the same one."""
    make_database = request.getfixturevalue("make_database")
    named = set(re.findall(r'"\$([A-Z_]+)"', document.read_text(encoding="utf-8")))
    url = os.environ["PERSISTENCE_DATABASE_URL"]
    for variable, role in {"OWNER_URL": "agents_owner", "APP_URL": "agents_app"}.items():
        monkeypatch.setenv(variable, url.replace("postgres@", f"{role}@"))
    for variable in named & {"DIRECT_ADDRESS", "NEW_DATABASE_URL"}:
        monkeypatch.setenv(variable, asyncio.run(make_database()))
    if "OLD_DATABASE_URL" in named:
        monkeypatch.setenv("OLD_DATABASE_URL", request.getfixturevalue("logical_server"))


@pytest.fixture
def logical_server(tmp_path: Path) -> Iterator[str]:
    """The address of another server, from which rows can be replicated."""
    folder = tmp_path / "old"
    try:
        url = embedded.start(folder, durable=False).database_url
        subprocess.run([postgres_binary("psql"), "-c", "ALTER SYSTEM SET wal_level = logical", url], check=True)
        embedded.stop(folder)
        yield embedded.start(folder, durable=False).database_url
    finally:
        embedded.stop(folder)


@pytest.mark.parametrize("document", [ROOT / "README.md", ROOT / "docs" / "tutorial.md"], ids=name_of)
def test_no_program_of_a_document_for_newcomers_is_left_out(document: Path) -> None:
    left_out = [block.line for block in blocks(document) if block.language == "python" and block.skipped]

    assert left_out == []


# --- links and names ---


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_inside_the_project_leads_somewhere(document: Path) -> None:
    broken = [link for link in links(document) if not leads_somewhere(document, link)]

    assert broken == []


def links(document: Path) -> list[str]:
    text = re.sub("^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in found if not re.match("[a-z]+:", link)]


def leads_somewhere(document: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = document.parent / path if path else document
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall("^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_variable_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"PERSISTENCE_[A-Z][A-Z_]*[A-Z]", document.read_text(encoding="utf-8")))

    assert named <= VARIABLES


def test_every_decision_is_in_the_list() -> None:
    decisions = ROOT / "docs" / "adr"

    listed = set(links(decisions / "README.md"))

    assert listed == {path.name for path in decisions.glob("0*.md")}


# --- the reference ---


def test_the_reference_has_every_setting_with_its_default() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    defaults = dict(re.findall("^(PERSISTENCE_[A-Z_]+)=(.*)$", example, re.MULTILINE))

    documented = {words(variable)[0]: (words(default) or [None])[0] for variable, default, *_ in rows("## Settings")}

    assert documented == {variable: defaults.get(variable) for variable in VARIABLES}


def test_the_reference_has_every_public_name() -> None:
    api = REFERENCE.read_text(encoding="utf-8").partition("\n## API\n")[2].partition("\n## Schema\n")[0]

    missing = [name for name in agent_persistence.__all__ if not re.search(rf"`{name}\b", api)]

    assert missing == []


@pytest.mark.parametrize(
    ("heading", "described"),
    [
        ("### Persistence", Persistence),
        ("### Threads", ThreadRepository),
        ("### Messages", MessageRepository),
        ("### States", CachedStates),
        ("### Entities", EntityRepository),
        ("### Checkpointers", Checkpointer),
        ("### Tool results", ToolResultRepository),
    ],
)
def test_the_reference_has_every_call_with_its_arguments(heading: str, described: type) -> None:
    calls = inspect.getmembers(described, callable)

    documented = [words(call)[0] for call, _ in rows(heading)]

    assert sorted(documented) == sorted(signature(name, call) for name, call in calls if not name.startswith("_"))


def test_the_reference_has_every_backend_with_its_arguments() -> None:
    backends = (PostgreSQLCheckpointer, MemoryCheckpointer, RedisCheckpointer, DynamoDBCheckpointer)

    documented = [words(call)[0] for call, _ in rows("### Backends")]

    expected = [signature(backend.__name__, backend).replace("*, ", "", 1) for backend in backends]
    assert documented == [call.replace("<built-in function time>", "time.time") for call in expected]


def signature(name: str, call: Callable[..., Any]) -> str:
    """A call as the reference writes it: names and defaults, no types."""
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for parameter in inspect.signature(call).parameters.values()
        if parameter.name != "self"
    ]
    return name + str(inspect.Signature(parameters)).replace(repr(UNSET), "UNSET").replace(repr(ANY_USER), "ANY_USER")


def test_the_reference_has_every_error_with_what_it_says() -> None:
    documented = {
        words(name)[0]: (words(bases), retryable, committed)
        for name, bases, _, retryable, committed in rows("## Errors")
    }

    assert documented == {
        name: (
            [base.__name__ for base in found.__bases__],
            "yes" if found.retryable else "no",
            found.committed,
        )
        for name, found in inspect.getmembers(agent_persistence, inspect.isclass)
        if issubclass(found, PersistenceError)
    }


@pytest.mark.parametrize("name", ["Thread", "State", "Message"])
def test_the_reference_has_every_column_with_its_type(name: str) -> None:
    table = table_of(getattr(build_models(IdTypes(STRING, STRING)), name))
    ids = {"thread_id", "message_id", "user_id"}

    documented = [(*words(column), *words(sql), null) for column, sql, null, _ in rows(f"### Table `{table.name}`")]

    assert sorted(documented) == sorted(
        (
            column.name,
            "id" if column.name in ids else column.type.compile(postgresql.dialect()),
            "yes" if column.nullable else "no",
        )
        for column in table.columns
    )


def test_the_reference_has_every_command_with_its_options() -> None:
    typer = pytest.importorskip("typer")
    cli = pytest.importorskip("agent_persistence.cli.app")
    group = typer.main.get_command(cli.app)

    documented = {
        re.sub(r" \[?[A-Z]+\]?$", "", words(command)[0]): {option.split()[0] for option in words(options)}
        for command, _, _, options, _ in rows("### Commands")
    }

    assert documented == dict(options_of_commands(group))


def options_of_commands(group: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from options_of_commands(command, f"{path}{name} ")
        else:
            found = {option for parameter in command.params for option in parameter.opts}
            yield f"{path}{name}", {option for option in found if option.startswith("--")}


def test_the_reference_has_every_exit_code() -> None:
    failures = pytest.importorskip("agent_persistence.cli.failures")

    assert [code for code, _ in rows("### Exit codes")] == [f"`{code.value}`" for code in failures.ExitCode]
