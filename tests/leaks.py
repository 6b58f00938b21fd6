"""No password, and nothing that a user wrote, may stand in a log or in the text of an error: the whole run is watched.

Tests write ``CANARY`` wherever contents and passwords go. Should any of them see it come back in a record of any logger
or in an error of this package, the run fails and names that test.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent_persistence.errors import PersistenceError

CANARY = "canary-4711"
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def with_password(url: str) -> str:
    """Put a password into the address of a server that asks for none."""
    return url.replace("//postgres@", f"//postgres:{CANARY}-password@")


@contextmanager
def watched_for_leaks() -> Iterator[list[str]]:
    """Collect what holds the canary: each record at its creation, whoever handles it, and each error at its own."""
    found: list[str] = []
    formatter = logging.Formatter()

    def look(source: str, text: str) -> None:
        if CANARY in text:
            found.append(f"{source}, in {os.environ.get('PYTEST_CURRENT_TEST', 'no test')}: {text[:2_000]}")

    def make_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        look(f"log of {record.name}", formatter.format(copy.copy(record)))  # formatting leaves its traces in a record
        return record

    def initialize(error: PersistenceError, *args: object) -> None:
        super(PersistenceError, error).__init__(*args)
        look(type(error).__name__, f"{error} {error!r}")

    class Fields(logging.Handler):
        """Looks at what a record carries beside its text, which is there only once the record is complete."""

        def emit(self, record: logging.LogRecord) -> None:
            carried = {name: value for name, value in vars(record).items() if name not in _USUAL}
            look(f"fields of a log of {record.name}", str(carried))

    fields = Fields()
    root, usual_records = logging.getLogger(), logging.getLogRecordFactory()
    usual_level = root.level
    logging.setLogRecordFactory(make_record)
    root.setLevel(logging.DEBUG)
    root.addHandler(fields)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PersistenceError, "__init__", initialize)
            yield found
    finally:
        root.removeHandler(fields)
        root.setLevel(usual_level)
        logging.setLogRecordFactory(usual_records)
