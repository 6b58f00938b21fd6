"""The comparison of models and database, and how a difference is rendered as a revision."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import MigrationScript
from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.schema import SchemaItem

from agent_persistence.migrate.preflight import TABLES
from agent_persistence.models import ExactJSON, RoleType, build_models
from agent_persistence.settings import PersistenceSettings

_ID_TYPES: Final = {"thread_id": "id_type", "message_id": "id_type", "user_id": "user_id_type"}


def comparison_options(settings: PersistenceSettings) -> dict[str, Any]:
    """Return options of ``context.configure`` for ``alembic check`` and ``alembic revision --autogenerate``."""
    metadata = build_models(settings.id_types).metadata
    # By identity of the type object: BigInteger, for example, is the type of ``seq`` as well.
    id_types = {
        id(column.type): _ID_TYPES[column.name]
        for table in metadata.tables.values()
        for column in table.columns
        if column.name in _ID_TYPES
    }

    def render_item(type_: str, item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
        """Render types so that the revision fits every configuration and imports nothing that may change."""
        if type_ != "type":
            return False
        if id(item) in id_types:
            return f"operations.{id_types[id(item)]}()"
        return _without_our_types(item, autogen_context)

    return {
        "target_metadata": metadata,
        "compare_server_default": True,
        "include_name": _include_name,
        "include_object": _include_object,
        "render_item": render_item,
        "process_revision_directives": _number_revision,
    }


def _without_our_types(item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    if isinstance(item, ExactJSON):
        rendered = "postgresql.JSONB()"
    elif isinstance(item, RoleType):
        rendered = "postgresql.ENUM(name='message_role', create_type=False)"
    else:
        return False
    autogen_context.imports.add("from sqlalchemy.dialects import postgresql")
    return rendered


def _number_revision(_context: Any, _heads: Any, directives: list[MigrationScript]) -> None:
    """Number revisions consecutively, so that two branches that add one collide in review, not in production."""
    newest = max(int(revision.revision.removeprefix("ap")) for revision in context.script.walk_revisions())
    directives[0].rev_id = f"ap{newest + 1:04d}"


def _include_name(name: str | None, type_: str, _parent_names: MutableMapping[Any, Any]) -> bool:
    """Exclude the host's tables, and optional indexes that an operator added to ours."""
    if type_ == "table":
        return name in TABLES
    return not (type_ == "index" and name is not None and name.startswith("opt_"))


def _include_object(item: SchemaItem, *_: Any) -> bool:
    """Exclude foreign keys from our tables to the host's."""
    if not isinstance(item, ForeignKeyConstraint):
        return True
    return item.elements[0].target_fullname.rpartition(".")[0] in TABLES
