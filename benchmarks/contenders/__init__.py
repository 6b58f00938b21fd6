"""Who is compared, each behind a small adapter; those that are not installed are left out, and named."""

from __future__ import annotations

from importlib import import_module

from benchmarks.contender import Contender, MissingContenderError


def load(name: str, place: str) -> Contender:
    """Make a contender.

    Args:
        place: the module within ``benchmarks``, a colon, the class.

    Raises:
        MissingContenderError: its package is not installed.
    """
    module, kind = place.split(":")
    try:
        contender: Contender = getattr(import_module(f"benchmarks.{module}"), kind)()
    except ImportError as error:
        raise MissingContenderError(f"{name}: not installed ({error})") from error
    return contender
