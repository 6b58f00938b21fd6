"""A cluster of three Valkeys on free ports of this machine."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NobodyThere

from agent_persistence.embedded.binaries import valkey_binary

_SLOTS = 16_384


@contextmanager
def valkey_cluster(folder: Path, *, nodes: int = 3) -> Iterator[int]:
    """Start a cluster; yield the port of one of its nodes."""
    with ExitStack() as running:
        ports = [running.enter_context(_node(folder / str(place))) for place in range(nodes)]
        clients = [running.enter_context(Redis(port=port)) for port in ports]
        for client in clients:
            _wait(partial(_answers, client))
        for place, client in enumerate(clients):
            first, last = place * _SLOTS // nodes, (place + 1) * _SLOTS // nodes - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0], _bus(ports[0]))
        for client in clients:
            _wait(partial(_is_whole, client))
        yield ports[0]


@contextmanager
def _node(folder: Path) -> Iterator[int]:
    folder.mkdir()
    port = _free_port()
    options = ["--cluster-enabled", "yes", "--cluster-port", str(_bus(port)), "--save", "", "--bind", "127.0.0.1"]
    command = [valkey_binary(), "--port", str(port), *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    """Return a free port, whose port for the traffic between nodes is free too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", _bus(port)))
            except OSError:
                continue
            return port


def _bus(port: int) -> int:
    return port - 10_000


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except NobodyThere:
        return False


def _is_whole(client: Redis) -> bool:
    return "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO"))


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
