"""The definition of an optional object."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OptionalObject:
    """An object that an operator may add to the schema, and remove. It is not in the history.

    As in a revision, the search path holds the schema. Where ``add`` must name it, it has ``{schema}``; ``{user_id}``
    is the type to which a user's id is cast, ``{owner}`` that of the column, ``{extension}`` the schema of the
    extension, ``{vector}`` the type of vectors.

    Attributes:
        name: its name on the command line.
        summary: its purpose, in a line.
        creates: the database object whose presence shows that it was added. It begins with ``opt_``, which ``alembic
            check`` ignores.
        add: the statements that create it, or update it.
        remove: the statements that drop it.
        concurrently: the statements run outside a transaction; others share one.
        extension: the extension that the server must have.
        package: what brings the extension to a server.
        has_dims: whether it is added with the number of dimensions of vectors.
    """

    name: str
    summary: str
    creates: str
    add: tuple[str, ...]
    remove: tuple[str, ...]
    concurrently: bool = False
    extension: str | None = None
    package: str = "PostgreSQL's contrib modules (in many distributions, the package postgresql-contrib)"
    has_dims: bool = False
