"""A finding of ``doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent_persistence.cli.failures import ExitCode


class Level(StrEnum):
    """The severity of a finding."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        remedy: what to run or set; ``None`` if nothing is wrong.
        exit_code: that of ``doctor``, if this is the gravest failure.
    """

    level: Level
    subject: str
    detail: str
    remedy: str | None = None
    exit_code: ExitCode = ExitCode.WRONG

    def as_json(self) -> dict[str, str | None]:
        """Return the finding for ``--json``."""
        return {"level": self.level, "subject": self.subject, "detail": self.detail, "remedy": self.remedy}
