"""The PostgreSQL enum ``message_role``."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.sql.type_api import _BindProcessorType, _ResultProcessorType
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from agent_persistence.records import MessageRole

_ROLES: Final[dict[str, MessageRole]] = {role.value: role for role in MessageRole}


class RoleType(TypeDecorator[str]):
    """The enum ``message_role``; a label that a newer version added is read as a string."""

    impl = ENUM
    cache_ok = True

    def __init__(self, schema: str | None = None) -> None:
        # The schema is given by hand: SQLAlchemy 2.0 does not inherit it from MetaData, 2.1 does.
        super().__init__(*(role.value for role in MessageRole), name="message_role", schema=schema)
        self.schema = schema

    @override
    def bind_processor(self, dialect: Dialect) -> _BindProcessorType[Any]:
        """Return the function that writes a role or a label."""
        return _to_label

    @override
    def result_processor(self, dialect: Dialect, coltype: object) -> _ResultProcessorType[Any]:
        """Return the function that reads a role, or a label that this version does not know."""
        return _to_role


def _to_label(value: Any) -> str | None:
    return None if value is None else MessageRole(value).value


def _to_role(value: Any) -> MessageRole | str | None:
    # SQLAlchemy's Enum raises LookupError for a label that it does not know, which fails every row of the result.
    role: MessageRole | str | None = _ROLES.get(value, value)
    return role
