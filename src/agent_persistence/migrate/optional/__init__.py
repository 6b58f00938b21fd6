"""Optional objects that an operator may add to the schema and remove: indexes for searches, triggers, policies.

They are not in the history: each has a cost that most applications need not pay. Every object is named ``opt_*``, which
``alembic check`` ignores.
"""

from agent_persistence.migrate.optional.changes import OBJECTS, add_optional, list_optional, present, remove_optional
from agent_persistence.migrate.optional.row_level_security import unprotected_tables

__all__ = ["OBJECTS", "add_optional", "list_optional", "present", "remove_optional", "unprotected_tables"]
