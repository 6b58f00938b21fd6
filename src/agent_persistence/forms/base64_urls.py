"""Addresses that hold the bytes that they name, as chat messages carry pictures and files."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_URL: Final = re.compile("data:([^;,]+);base64,(.*)", re.DOTALL)


class Media(NamedTuple):
    """The bytes of a picture or a file, as base64."""

    mime_type: str
    data: str


def base64_url(mime_type: str, data: str) -> str:
    """Return the address that holds these bytes."""
    return f"data:{mime_type};base64,{data}"


def media_of(url: str) -> Media | None:
    """Return the bytes that an address holds; ``None`` for another address."""
    found = _URL.fullmatch(url)
    return found and Media(found[1], found[2])
