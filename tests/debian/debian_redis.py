"""A Redis server that a test may freeze, kill and start again."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

_START_SECONDS = 10.0


class RedisServer:
    """A Redis on a Unix socket and a TCP port, without a configuration file and without a file on the disk."""

    def __init__(self, program: str, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._socket = folder / "redis.sock"
        self._command = [program, "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(self._socket)]
        self._command += ["--save", "", "--dir", str(folder), "--logfile", str(folder / "redis.log")]

    @property
    def unix_url(self) -> str:
        """The address of its socket."""
        return f"unix://{self._socket}"

    @property
    def tcp_url(self) -> str:
        """The address of its port."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen([*self._command, *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "redis.log").read_text()
            time.sleep(0.01)

    def freeze(self) -> None:
        """Leave it there, with its connections open, but answering nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, with whatever was sent to it meanwhile."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, with all that it holds."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return bool(connection.recv(64))
            except OSError:
                return False
