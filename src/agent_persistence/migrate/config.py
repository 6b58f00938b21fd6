"""The location of the Alembic history: inside the wheel, or at the top of a checkout."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError

from agent_persistence.errors import SchemaError
from agent_persistence.settings import PersistenceSettings


def alembic_ini() -> Path:
    """Return the path of our ``alembic.ini``, for ``alembic -c`` and ``ALEMBIC_CONFIG``."""
    package = Path(__file__).parents[1]
    packaged = package / "alembic.ini"
    # An editable install has no copy beside the modules.
    return packaged if packaged.is_file() else package.parents[1] / "alembic.ini"


def alembic_config(settings: PersistenceSettings | None = None) -> Config:
    """Return the configuration for ``alembic.command``; without settings, ``env.py`` reads the environment."""
    config = Config(str(alembic_ini()))
    if settings is not None:
        config.attributes["settings"] = settings
    return config


@lru_cache(maxsize=1)
def history() -> ScriptDirectory:
    """Return the revisions of this version of the package."""
    return ScriptDirectory.from_config(alembic_config())


def head() -> str:
    """Return the revision that this version of the package needs."""
    [revision] = history().get_heads()
    return revision


def is_ours(revision: str) -> bool:
    """Whether a revision is one of this package, of any version; others are of a host with one history for both."""
    return re.fullmatch("ap[0-9]{4}", revision) is not None


def is_known(revision: str) -> bool:
    """Whether this version of the package has a revision; others are of later versions."""
    return any(script.revision == revision for script in history().walk_revisions())


def undone_by_downgrade(current: str, revision: str) -> dict[str, str]:
    """Return the revisions that a downgrade would undo, the newest first, with their titles.

    Args:
        current: the revision of the database.
        revision: where the downgrade goes: a revision, a number such as ``-1``, or ``base``.

    Raises:
        SchemaError: there is no such revision.
    """
    try:
        return {script.revision: script.doc for script in history().iterate_revisions(current, revision)}
    except RevisionError as error:
        raise SchemaError(str(error)) from error
