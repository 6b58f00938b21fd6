"""The SQL of the hot path stands in a file, so that a change of it is reviewed as SQL."""

from __future__ import annotations

import pytest
import sqlalchemy
from unit.repositories.hot_path import MODULES, SQL_FILE, builds_a_statement, hot_path, rendered


@pytest.mark.skipif(not sqlalchemy.__version__.startswith("2.1."), reason="2.0 labels some columns differently")
def test_the_file_shows_the_sql_that_is_sent() -> None:
    command = "PYTHONPATH=tests python -m unit.repositories.hot_path"
    assert SQL_FILE.read_text() == rendered(), f"review the change of SQL, then run: {command}"


def test_every_compiled_statement_is_in_the_file() -> None:
    builders = {
        f"{module.__name__}.{name}": found
        for module in MODULES
        for name, found in vars(module).items()
        if builds_a_statement(found)
    }
    for builder in builders.values():
        builder.cache_clear()  # type: ignore[attr-defined]
    shown = list(hot_path())
    called = {name for name, builder in builders.items() if builder.cache_info().currsize}  # type: ignore[attr-defined]

    assert len({statement.text for _, statement in shown}) == len(shown)
    assert called == set(builders)
