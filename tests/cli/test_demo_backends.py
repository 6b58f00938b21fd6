"""``demo --backend`` shows each checkpointer at work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dynamodb_server import dynamodb_server

from command_line import CommandLine


@pytest.fixture(scope="module")
def dynamodb_url() -> Iterator[str]:
    with dynamodb_server() as url:
        yield url


@pytest.mark.parametrize(
    ("backend", "found"),
    [("memory", "0 threads"), ("redis", "1 thread "), ("postgres", "1 thread "), ("dynamodb", "1 thread ")],
)
def test_a_second_run_finds_what_the_first_has_left(
    backend: str, found: str, unmigrated: CommandLine, dynamodb_url: str
) -> None:
    command_line = unmigrated.with_variables(
        PERSISTENCE_NAMESPACE=unmigrated.variables["PERSISTENCE_DB_SCHEMA"],
        PERSISTENCE_DYNAMODB_ENDPOINT_URL=dynamodb_url,
        PERSISTENCE_DYNAMODB_REGION="eu-central-1",
        AWS_ACCESS_KEY_ID="any",
        AWS_SECRET_ACCESS_KEY="any",
    )

    first, second = command_line("demo", "--backend", backend), command_line("demo", "--backend", backend)

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert "Earlier runs have left 0 threads here" in first.stdout
    assert f"Earlier runs have left {found}" in second.stdout
    assert "refused" in second.stdout
    assert "loaded {'step': 'answer', 'order': 7}" in second.stdout


@pytest.mark.parametrize("kind", ["int", "bigint", "uuid"])
def test_it_makes_ids_of_the_configured_kind(kind: str, unmigrated: CommandLine) -> None:
    command_line = unmigrated.with_variables(PERSISTENCE_ID_TYPE=kind, PERSISTENCE_USER_ID_TYPE=kind)

    shown = command_line("demo", "--backend", "postgres")

    assert shown.exit_code == 0, shown.output
    assert len(command_line.sql("SELECT FROM threads")) == 1


@pytest.mark.slow
def test_without_an_address_redis_is_started_for_the_length_of_the_demo(unmigrated: CommandLine) -> None:
    shown = unmigrated.with_variables(PERSISTENCE_REDIS_URL="")("demo", "--backend", "redis")

    assert shown.exit_code == 0, shown.output
    assert "forgets everything when this ends" in shown.stderr


def test_without_an_address_dynamodb_says_in_one_line_what_is_needed(unmigrated: CommandLine) -> None:
    shown = unmigrated("demo", "--backend", "dynamodb")

    assert shown.exit_code == 2
    assert shown.stderr.startswith("error: PERSISTENCE_DYNAMODB_ENDPOINT_URL: is not set; ")
    assert len(shown.stderr.splitlines()) == 1
