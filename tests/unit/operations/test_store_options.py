"""What a store makes of its settings."""

from __future__ import annotations

import itertools

import pytest

from agent_persistence.errors import InvalidInputError
from agent_persistence.operations.store_options import store_options
from agent_persistence.settings import PersistenceSettings
from agent_persistence.telemetry.telemetry import Telemetry

_numbers = itertools.count(1)


def new_id() -> object:
    """The function of an application."""
    return next(_numbers)


@pytest.mark.parametrize(
    ("id_type", "generator", "draws"),
    [
        ("string", None, True),
        ("uuid", "uuid4", True),
        ("bigint", None, False),
        ("bigint", f"{__name__}:new_id", False),
    ],
)
def test_only_random_ids_are_taken_to_be_unused(id_type: str, generator: str | None, *, draws: bool) -> None:
    settings = PersistenceSettings(_env_file=None, id_type=id_type, id_generator=generator)

    assert store_options(settings, Telemetry(), is_cached=False).draws_ids is draws


def test_an_id_of_another_type_than_that_of_the_settings_is_refused_with_the_name_of_its_setting() -> None:
    settings = PersistenceSettings(_env_file=None, id_type="string", id_generator=f"{__name__}:new_id")
    make = store_options(settings, Telemetry(), is_cached=False).new_id
    assert make is not None

    with pytest.raises(InvalidInputError) as refusal:
        make()

    assert refusal.value.field == "PERSISTENCE_ID_GENERATOR"
