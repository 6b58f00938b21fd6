"""Names of hosts that move from one address to another, as those of a managed database do."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

VARIABLE = "TORTURE_NAMES"
ADDRESSES = ("127.0.0.1", "127.0.0.2")


class Names:
    """The addresses of names, in a file that all clients read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._addresses: dict[str, str] = {}

    def move(self, name: str, address: str) -> None:
        self._addresses[name] = address
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self._addresses))
        new.rename(self.file)


def resolve_names() -> None:
    """Let this process resolve the names of the file; others as always."""
    file, resolve = Path(os.environ[VARIABLE]), socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        return resolve(json.loads(file.read_text()).get(host, host), *arguments, **named)

    socket.getaddrinfo = getaddrinfo
