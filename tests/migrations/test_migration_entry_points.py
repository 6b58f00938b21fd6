"""The ways to run Alembic on the shipped history: from the built wheel, in a folder that holds nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent_persistence import migrate
from migration_testing import REPOSITORY, Database, Process

pytestmark = pytest.mark.slow

_INI = "[{section}]\nscript_location = agent_persistence:migrations\n"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel unpacked, as an installer does."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel and is not installed")
    built, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    [wheel] = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


async def run(site: Path, cwd: Path, *arguments: str, **env: str) -> Process:
    """Run Python where the wheel is found before this checkout."""
    process = await Process.start(*arguments, cwd=cwd, env={"PYTHONPATH": str(site), **env})
    await process.wait()
    return process


def test_the_wheel_holds_the_history_and_nothing_that_was_left_over(site: Path) -> None:
    shipped = {path.relative_to(site / "agent_persistence").as_posix() for path in site.rglob("migrations/**/*.py")}

    versions = {f"migrations/versions/{path.name}" for path in (REPOSITORY / "migrations" / "versions").glob("*.py")}
    assert shipped == versions | {"migrations/env.py"}
    assert (site / "agent_persistence" / "migrations" / "script.py.mako").is_file()
    assert not list(site.rglob("__pycache__"))


@dataclass(frozen=True)
class Setup:
    """What stands in the working directory, and how ``alembic`` is called; ``{package}`` is where we are installed."""

    files: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


SETUPS = {
    "an alembic.ini of two lines": Setup({"alembic.ini": _INI.format(section="alembic")}),
    "pyproject.toml": Setup({"pyproject.toml": '[tool.alembic]\nscript_location = "agent_persistence:migrations"\n'}),
    "a section in the host's alembic.ini": Setup(
        {"alembic.ini": "[alembic]\nscript_location = theirs\n" + _INI.format(section="agent_persistence")},
        arguments=["-n", "agent_persistence"],
    ),
    "-c": Setup(arguments=["-c", "{package}/alembic.ini"]),
    "ALEMBIC_CONFIG": Setup(env={"ALEMBIC_CONFIG": "{package}/alembic.ini"}),
}


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
async def test_the_alembic_command_works(site: Path, database: Database, tmp_path: Path, setup: Setup) -> None:
    package = str(site / "agent_persistence")
    for name, text in setup.files.items():
        (tmp_path / name).write_text(text)
    arguments = [argument.format(package=package) for argument in setup.arguments]
    env = {name: value.format(package=package) for name, value in setup.env.items()}

    upgrade = await run(
        site, tmp_path, "-m", "alembic", *arguments, "upgrade", "head", PERSISTENCE_DATABASE_URL=database.url, **env
    )

    assert upgrade.process.returncode == 0, upgrade.output
    assert "Running upgrade  -> ap0001" in upgrade.output
    assert await migrate.current(database.settings()) == migrate.head()


async def test_without_a_configuration_alembic_says_what_it_needs(site: Path, tmp_path: Path) -> None:
    upgrade = await run(site, tmp_path, "-m", "alembic", "upgrade", "head")

    assert upgrade.process.returncode != 0
    assert "script_location" in upgrade.output


async def test_the_library_works(site: Path, database: Database, tmp_path: Path) -> None:
    program = (
        "import asyncio, agent_persistence\n"
        "from agent_persistence import migrate\n"
        "from agent_persistence.settings import PersistenceSettings\n"
        "asyncio.run(migrate.upgrade(PersistenceSettings()))\n"
        "print(agent_persistence.__file__)\n"
    )

    upgrade = await run(site, tmp_path, "-c", program, PERSISTENCE_DATABASE_URL=database.url)

    assert upgrade.output.strip().startswith(str(site)), upgrade.output
    assert await migrate.current(database.settings()) == migrate.head()


async def test_current_check_and_history_work_in_a_checkout(database: Database) -> None:
    await migrate.upgrade(database.settings())

    program = (
        "from alembic.config import main\n"
        "for command in (['current', '--check-heads'], ['check'], ['history']): main(command)\n"
    )
    process = await Process.start("-c", program, cwd=REPOSITORY, env={"PERSISTENCE_DATABASE_URL": database.url})

    assert await process.wait() == 0, process.output
    assert f"{migrate.head()} (head)" in process.output
    assert "No new upgrade operations detected." in process.output
    assert "<base> -> ap0001 (agent_persistence)" in process.output


async def test_a_refusal_is_one_line_on_the_command_line(tmp_path: Path) -> None:
    process = await Process.start(
        "-m", "alembic", "-c", str(migrate.alembic_ini()), "upgrade", "head", cwd=tmp_path, env={}
    )

    assert await process.wait() != 0
    assert "FAILED: PERSISTENCE_DATABASE_URL: is not set" in process.output
    assert "Traceback" not in process.output


async def test_embedded_is_an_address(tmp_path: Path) -> None:
    env = {"PERSISTENCE_DATABASE_URL": "embedded", "PERSISTENCE_EMBEDDED_DIR": str(tmp_path / "servers")}

    process = await Process.start(
        "-m", "alembic", "-c", str(migrate.alembic_ini()), "upgrade", "head", cwd=tmp_path, env=env
    )

    assert await process.wait() == 0, process.output
    assert "Running upgrade  -> ap0001" in process.output
    assert (tmp_path / "servers").is_dir()
