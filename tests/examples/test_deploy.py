"""The files for Docker and Kubernetes name settings, commands and paths that exist; they start where Docker is."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

yaml = pytest.importorskip("yaml", reason="needs the extra docs")

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
VARIABLES = {f"PERSISTENCE_{name.upper()}" for name in PersistenceSettings.model_fields}


def load_app() -> Any:
    spec = importlib.util.spec_from_file_location("deployed", DEPLOY / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def docker(*command: str) -> subprocess.CompletedProcess[str]:
    found = [shutil.which("docker") or "docker", *command]
    return subprocess.run(found, cwd=DEPLOY, capture_output=True, text=True, timeout=600, check=False)


def has_docker() -> bool:
    return shutil.which("docker") is not None and all(
        docker(*command).returncode == 0 for command in (["info"], ["compose", "version"])
    )


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def dictionaries(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []:
        yield from dictionaries(part)


def containers() -> list[dict[str, Any]]:
    return [found for manifest in manifests() for found in dictionaries(manifest) if "image" in found]


def test_the_files_name_settings_that_exist() -> None:
    named = {variable["name"] for container in containers() for variable in container["env"]}
    named |= {name for service in compose()["services"].values() for name in service.get("environment", {})}

    assert {name for name in named if name.startswith("PERSISTENCE_")} - VARIABLES == set()
    assert "PERSISTENCE_DATABASE_URL" in named


def test_the_files_run_commands_that_exist() -> None:
    cli = pytest.importorskip("agent_persistence.cli.app")
    known = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    commands = [container["command"] for container in containers() if "command" in container]
    commands.append(compose()["services"]["migrate"]["command"])

    assert [command[0] for command in commands] == ["agent-persistence"] * 3
    assert {command[1] for command in commands} <= known


async def test_the_application_answers_the_probes_and_reports_its_store(
    settings_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = await settings_for()
    probes = [container[key]["httpGet"]["path"] for container in containers() for key in container if "Probe" in key]
    monkeypatch.setattr(Persistence, "from_env", lambda: Persistence(settings))
    app = load_app()
    transport = httpx.ASGITransport(app)

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        answers = {path: (await client.get(path)).status_code for path in probes}
        created = await client.post("/threads?name=Refund", headers={"X-User-Id": "ada"})
        metrics = await client.get("/metrics/")

    assert 'duration_seconds_count{error_type="",operation="threads.create"} 1.0' in metrics.text
    assert answers == {"/livez": 200, "/readyz": 200, "/startupz": 200}
    assert created.json()["name"] == "Refund"


@pytest.mark.slow
def test_the_compose_file_starts_an_application_that_is_ready() -> None:
    if not has_docker():
        pytest.skip("needs a Docker daemon and docker compose")
    try:
        started = docker("compose", "--project-name", "agents-test", "up", "--build", "--wait")
        assert started.returncode == 0, started.stderr

        created = httpx.post("http://127.0.0.1:8000/threads?name=Refund", headers={"X-User-Id": "ada"})

        assert created.status_code == 201
    finally:
        docker("compose", "--project-name", "agents-test", "down", "--volumes", "--rmi", "local")
