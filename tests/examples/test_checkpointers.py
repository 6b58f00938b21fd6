"""The example runs on every backend, and goes on where the last run stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from dynamodb_server import dynamodb_server

from agent_persistence.embedded import EmbeddedServers

EXAMPLE = Path(__file__).parents[2] / "examples" / "checkpointers" / "resume.py"


@pytest.fixture(scope="module")
def dynamodb_url() -> Iterator[str]:
    with dynamodb_server() as url:
        yield url


@pytest_asyncio.fixture
async def environment(
    make_database: Callable[[], Awaitable[str]], servers: EmbeddedServers, dynamodb_url: str, tmp_path: Path
) -> dict[str, str]:
    return {
        **os.environ,
        "PERSISTENCE_DATABASE_URL": await make_database(),
        "PERSISTENCE_AUTO_MIGRATE": "true",
        "PERSISTENCE_REDIS_URL": servers.redis_url,
        "PERSISTENCE_NAMESPACE": tmp_path.name[:64],
        "PERSISTENCE_DYNAMODB_ENDPOINT_URL": dynamodb_url,
        "PERSISTENCE_DYNAMODB_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
    }


@pytest.mark.parametrize(
    ("backend", "steps"), [("memory", [3]), ("redis", [3, 6]), ("postgresql", [3]), ("dynamodb", [3])]
)
def test_it_runs_on_every_backend_and_goes_on_where_it_stopped(
    backend: str, steps: list[int], environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, EXAMPLE, backend]
    printed = [
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in steps
    ]

    assert printed == [f"{count} steps\nthread report\n" for count in steps]
