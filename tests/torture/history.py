"""The history of a run: what was called when, and what came of it, one JSON line an event, a file a process.

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. Each line reaches the kernel at once,
so a process that is killed loses the line it was about to write, and no other.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

Event = dict[str, Any]
Counts = dict[str, int]
Outcome = Literal["ok", "error", "cancelled", "unknown"]
STATE_READS = ("get", "load", "recall")
SECOND = 1_000_000_000
LONGEST_SAMPLE = SECOND // 2
NEVER = 1 << 62
EDITED = "|"
FORM = "~"
STREAM = "stream"
AGENT = "agent"


class Recorder:
    """Writes the history of one process."""

    def __init__(self, folder: Path, process: str) -> None:
        self.process = process
        self._file = (folder / f"{process}.jsonl").open("a", buffering=1)
        self._calls = 0

    def write(self, event: str, **fields: Any) -> None:
        self._file.write(json.dumps({"t": time.monotonic_ns(), "event": event, **fields}) + "\n")

    def invoke(self, kind: str, **arguments: Any) -> str:
        self._calls += 1
        call = f"{self.process}#{self._calls}"
        self.write("invoke", call=call, kind=kind, **arguments)
        return call


@dataclass(slots=True)
class Call:
    """One call of the API, with what is known of its end.

    Attributes:
        returned: when the caller was told; ``NEVER`` where it was not.
        outcome: ``unknown`` where the process was killed meanwhile.
        result: what the caller was told, or the name of the error and what it says about the commit.
    """

    id: str
    kind: str
    invoked: int
    arguments: dict[str, Any]
    returned: int = NEVER
    outcome: Outcome = "unknown"
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def thread(self) -> str:
        return str(self.arguments["thread"])

    @property
    def tokens(self) -> list[str]:
        return list(self.arguments.get("tokens", ()))

    @property
    def acknowledged(self) -> bool:
        return self.outcome == "ok"

    @property
    def seqs(self) -> dict[str, int]:
        """The places of messages that the caller was told of, by token."""
        if not self.acknowledged:
            return {}
        if self.kind == "page":
            return {token_of(content): seq for seq, content in self.result["shown"]}
        return dict(self.result.get("seqs", ()))

    @property
    def versions(self) -> dict[str, int]:
        """The versions of states that the caller was told of, by token."""
        if not self.acknowledged:
            return {}
        is_stored = self.result.get("durable", True)
        if self.kind in (*STATE_READS, "put", "save", "settle") and self.result["token"] and is_stored:
            return {self.result["token"]: self.result["version"]}
        return dict(self.result.get("versions", ()))


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in which something was wrong, or was made to be."""

    start: int
    end: int
    kind: str = ""


@dataclass(slots=True)
class Tables:
    """What the database holds after the run.

    Attributes:
        threads: owner by thread.
        messages: thread, seq and content of each.
        states: thread, version and data of each.
        tool_results: result by thread and id of the call.
        checkpoints: those of each graph's thread, the oldest first, as ``torture.graphs`` describes them.
    """

    threads: dict[str, str] = field(default_factory=dict)
    messages: list[tuple[str, int, str]] = field(default_factory=list)
    states: list[tuple[str, int, Any]] = field(default_factory=list)
    tool_results: dict[tuple[str, str], Any] = field(default_factory=dict)
    checkpoints: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(slots=True)
class History:
    """All calls of a run, and what else happened.

    Attributes:
        faults: what was injected, from its start to the recovery.
        unreachable: when some client's cache could not be reached, whatever the reason.
        stalls: when a process had no turn of its processor for longer than it takes on a busy machine.
        killed: the processes that were killed on purpose.
        roles: of each process.
        unsaved: tokens of states that degraded mode returned.
        hits, bad_inputs: counted by the clients.
        counts: by process, what its metrics said, and when.
        measured: by process, the operations that its metrics had in the end, by name and error.
        commits_lost: how many replies to COMMIT were swallowed.
        errors: what left the API outside the recorded calls.
    """

    calls: list[Call] = field(default_factory=list)
    faults: list[Span] = field(default_factory=list)
    unreachable: list[Span] = field(default_factory=list)
    stalls: dict[str, list[Span]] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)
    roles: dict[str, str] = field(default_factory=dict)
    unsaved: set[str] = field(default_factory=set)
    hits: int = 0
    counts: dict[str, list[tuple[int, Counts]]] = field(default_factory=dict)
    measured: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    commits_lost: int = 0
    bad_inputs: Counter[str] = field(default_factory=Counter)
    wrong_answers: list[Event] = field(default_factory=list)
    errors: list[Event] = field(default_factory=list)


def read_folder(folder: Path) -> History:
    """Read the files of all processes."""
    history = History()
    for path in sorted(folder.glob("*.jsonl")):
        _add(history, path.stem, _events(path))
    history.calls.sort(key=lambda call: call.invoked)
    return history


def from_events(events: Iterable[Event], process: str = "client") -> History:
    """Make the history of one process out of its events."""
    history = History()
    _add(history, process, events)
    return history


def _events(path: Path) -> Iterator[Event]:
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):  # the last line of a killed process may be half a one
                yield json.loads(line)


def _add(history: History, process: str, events: Iterable[Event]) -> None:
    calls: dict[str, Call] = {}
    last_sample: Event | None = None
    for event in events:
        match event.pop("event"):
            case "invoke":
                call = Call(event.pop("call"), event.pop("kind"), event.pop("t"), event)
                calls[call.id] = call
            case "return":
                call = calls[event.pop("call")]
                call.returned, call.outcome, call.result = event.pop("t"), event.pop("outcome"), event
            case "sample":
                _add_sample(history, last_sample, event, process)
                last_sample = event
            case "measured":
                history.measured[process] = Counter(
                    {(name, error): count for name, error, count in event["operations"]}
                )
            case "fault":
                history.faults.append(Span(event["start"], event["t"], event["kind"]))
            case "role":
                history.roles[process] = event["role"]
            case "unsaved":
                history.unsaved.add(event["token"])
            case "killed":
                history.killed.add(event["process"])
            case "wrong":
                history.wrong_answers.append(event)
            case "error":
                history.errors.append({**event, "process": process})
    history.calls += calls.values()
    if last_sample is not None:
        # What became of a client's calls to Redis after its last sample, nobody knows: it may have been killed.
        history.unreachable.append(Span(last_sample["t"], last_sample["t"] + SECOND))
        history.hits += last_sample["cache"]["hits"]
        history.bad_inputs.update(last_sample["bad_inputs"])


def _add_sample(history: History, before: Event | None, sample: Event, process: str) -> None:
    history.counts.setdefault(process, []).append((sample["t"], sample["counts"]))
    if before is not None and sample["t"] - before["t"] > LONGEST_SAMPLE:
        history.stalls.setdefault(process, []).append(Span(before["t"], sample["t"]))
    if before is not None and sample["cache"]["unavailable"] > before["cache"]["unavailable"]:
        history.unreachable.append(Span(before["t"], sample["t"]))


def message_of(token: str, edit: str = "") -> dict[str, Any]:
    """The message that carries a token, and the name of its last edit."""
    return {"role": "user", "content": f"{token}{EDITED}{edit}" if edit else token}


def token_of(content: str) -> str:
    return content.partition(EDITED)[0]


def edit_of(content: str) -> str:
    return content.partition(EDITED)[2]


def state_of(token: str) -> dict[str, Any]:
    """The state that carries a token; what else it holds follows from that.

    A name that ends in ``~300`` carries a log of 300 entries, one in ``~agent`` has the shape of an agent's state, and
    one in ``~stream`` is described by its digest.
    """
    _, _, form = token.partition(FORM)
    if form == STREAM:
        return {"token": token, "stream": hashlib.sha256(stream_of(token)).hexdigest()}
    drawn = zlib.crc32(token.encode())
    state = {"token": token, "step": drawn, "score": drawn / 7, "whole": 1.0, "none": None}
    state["notes"] = ["ü\u2028😀", None, drawn % 2 == 0, {"": []}, 0, False, -1, 2**53]
    if form == AGENT:
        return {**state, **_agent(token)}
    return {**state, "log": list(_log(int(form)))} if form else state


def _agent(token: str) -> dict[str, Any]:
    """What Agentflow's states hold."""
    said = [{"type": "text", "text": f"{token} said {number}", "annotations": []} for number in range(3)]
    context = [
        {
            "message_id": f"{token}-{number}",
            "role": role,
            "content": [said[number]],
            "tools_calls": None,
            "metadata": {},
        }
        for number, role in enumerate(("user", "assistant", "tool"))
    ]
    meta = {"current_node": "MAIN", "step": 3, "status": "running", "internal_data": {}, "interrupted_node": None}
    return {"context": context, "context_summary": None, "execution_meta": meta}


@lru_cache(8)
def _log(entries: int) -> tuple[str, ...]:
    return tuple(f"entry {number} of a log that only grows, as those of agents do" for number in range(entries))


def stream_of(token: str) -> bytes:
    """The bytes of a streamed state."""
    return token.encode() * (200_000 // len(token))


def exact(value: Any) -> str:
    """A text that differs where values or types do: 1, 1.0 and True are equal to Python."""
    return json.dumps(value, sort_keys=True)
