"""The variables that a command is given."""

from __future__ import annotations

import os

from dotenv import dotenv_values


def given_variables() -> set[str]:
    """Return the names of the variables in the environment and in ``.env``, in capital letters."""
    # Variables of the environment that are set to nothing count as unset, as they do for the settings.
    in_file = dotenv_values(".env")
    return {name.upper() for name, value in (*os.environ.items(), *in_file.items()) if value}
