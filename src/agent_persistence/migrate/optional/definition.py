"""What an optional object is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OptionalObject:
    """Something that an operator may add to the schema, and take away again. The history knows nothing of it.

    As in a revision, the search path knows the schema. Where ``add`` has to say it, there stands ``{schema}``;
    ``{user_id}`` is the type that a user's id is read as, ``{extension}`` the schema of the extension.

    Attributes:
        name: the word for it on the command line.
        summary: what it is good for, in a line.
        creates: the object whose presence says that it is there. It begins with ``opt_``, which ``alembic check``
            passes over.
        add: the statements that make it. Run again, they bring it up to date.
        remove: the statements that drop it.
        concurrently: the statements want no transaction around them; the others share one.
        extension: what the server has to have for it.
    """

    name: str
    summary: str
    creates: str
    add: tuple[str, ...]
    remove: tuple[str, ...]
    concurrently: bool = False
    extension: str | None = None
