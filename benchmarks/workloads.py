"""The workloads that are measured in slices: what each does, on which threads, at which sizes and concurrencies."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.workload import (
    USUAL_TASKS,
    Make,
    Workload,
    appending,
    appending_many,
    calling,
    giving,
    running,
    saving,
    unit,
)

_FEW_TASKS = (1, 16)

STORES = (
    Workload("w1", "save a state, no cache", "save_state", saving("save_state"), by_size=True),
    Workload(
        "w1c",
        "save a state, cache on",
        "save_state_cached",
        saving("save_state_cached"),
        "cached",
        quick_tasks=(1, 32),
    ),
    Workload("w2a", "latest state from PostgreSQL", "read_state", calling("read_state"), by_size=True),
    Workload(
        "w2f", "the same past a cache", "read_state_fresh", calling("read_state_fresh"), "cached", quick_tasks=(32,)
    ),
    Workload("w2b", "cache hit", "read_state_cached", calling("read_state_cached"), "cached", by_size=True),
    Workload("w3", "append one message", "append_message", appending),
    Workload(
        "w3k", "append 1,000 messages at once", "append_messages", appending_many, tasks=(1, 32), quick_tasks=(1,)
    ),
    Workload(
        "w4", "last 50 of 10,000 messages", "last_messages", calling("last_messages"), "long", quick_tasks=(1, 32)
    ),
    Workload("w5", "a turn: read, append two, save", "turn", giving("turn"), quick_tasks=(1, 32)),
    Workload(
        "orm1",
        "latest state as an entity",
        "read_state_entity",
        calling("read_state_entity"),
        tasks=(1, 32),
        quick_tasks=(32,),
    ),
    Workload(
        "orm50",
        "last 50 messages as entities",
        "read_message_entities",
        calling("read_message_entities"),
        "long",
        tasks=(1, 32),
        quick_tasks=(32,),
    ),
)

_WORKS = {"write": "append one and save", "page": "a page of 20", "both": "append one, save, a page of 20"}
_WAYS = {"begin": "a unit of work", "run": "a unit of work with retries", "bind": "in a host's session"}
UNITS = tuple(
    Workload(
        f"w10-{way}-{work}",
        f"{opened}: {done}",
        f"in_{way}",
        unit(f"in_{way}", work),
        tasks=_FEW_TASKS,
        quick_tasks=_FEW_TASKS,
    )
    for way, opened in _WAYS.items()
    for work, done in _WORKS.items()
)

_LENGTHS = (10, 100, 800)


def _graph(key: str, title: str, method: str, threads: str, make: Make | None = None) -> Workload:
    make = make or calling(method)
    quick = _FEW_TASKS if key == "run-100" else _FEW_TASKS[:1]
    return Workload(f"w11-{key}", title, method, make, threads, _FEW_TASKS, quick, floor="langgraph")


GRAPHS = (
    *(_graph(f"run-{n}", f"a run on {n} messages", "run", str(n), running("async")) for n in _LENGTHS),
    *(_graph(f"exit-{n}", f"the same, saved at its end: {n}", "run", str(n), running("exit")) for n in _LENGTHS),
    _graph("tools-100", "a run that calls tools, on 100 messages", "run_with_tools", "100"),
    _graph("get-100", "the latest state, of 100 messages", "get_state", "100"),
    _graph("history", "the last 50 states", "get_history", "history"),
)

_WRITING = ("put-checkpoint", "put-state", "put-state-cache", "put-messages", "clear-state", "clean-thread")
_OTHER_CALLS = (
    *("get-state", "get-state-cache", "get-message", "list-messages", "delete-message"),
    *("put-thread", "get-thread", "list-threads", "get-thread-owner"),
    *("put-tool-result", "get-tool-result", "request-stop", "is-stop-requested"),
    *("put-cache-value", "get-cache-value", "clear-cache-value", "list-cache-keys"),
)


def _agentflow(key: str) -> Workload:
    method = key.replace("-", "_")
    make = giving(method) if key in _WRITING else calling(method)
    threads = "read" if key.startswith(("get", "list", "is")) else "write"
    return Workload(f"w12-{key}", method, method, make, threads, _FEW_TASKS, _FEW_TASKS, floor="agentflow")


AGENTFLOW = tuple(map(_agentflow, _WRITING + _OTHER_CALLS))

_CONTRACT = {"save": saving("save"), "load": calling("load"), "list": calling("list_own"), "delete": saving("delete")}
BACKENDS = tuple(
    Workload(
        f"w12-contract-{key}", f"the contract: {key}", "load", make, "own", _FEW_TASKS, _FEW_TASKS, floor="postgresql"
    )
    for key, make in _CONTRACT.items()
)

_ENDPOINTS = {
    "threads": ("GET 20 of the user's threads", "list_threads"),
    "messages": ("GET the last 50 messages", "list_messages"),
    "say": ("POST a message, which is answered", "say"),
}
WEB = tuple(
    Workload(f"w13-{key}", title, method, calling(method), tasks=_FEW_TASKS, quick_tasks=_FEW_TASKS)
    for key, (title, method) in _ENDPOINTS.items()
)


def _everyday(floor: str, title: str, **methods: str) -> tuple[Workload, ...]:
    kind = {"langgraph": "store", "openai-agents": "openai"}.get(floor, floor)
    return tuple(
        Workload(
            *(f"w14-{kind}-{method.partition('_')[0]}", f"{title}: {done}", method, calling(method)),
            tasks=(1, USUAL_TASKS),
            quick_tasks=(1, USUAL_TASKS),
            floor=floor,
        )
        for method, done in methods.items()
    )


MEMORY = _everyday(
    *("langgraph", "LangGraph's store"),
    put_item="put an item",
    get_item="get an item",
    search_items="ten items by a filter",
)
SESSIONS = _everyday(
    *("openai-agents", "session of the OpenAI Agents SDK"),
    add_two="add two items",
    get_last="get the last 20 items",
    turn_of_two="get 20, add two",
    pop_added="add an item, and pop it",
)
SERVICES = _everyday(
    *("adk", "session service of Google ADK"),
    append_event="append an event",
    get_session="get a session with its last 20 events",
)

_MEASURED = ("w2a", "w2b", "w1", "w3")
OBSERVING = tuple(
    replace(
        one,
        key=f"durations-{one.key}",
        tasks=(1, USUAL_TASKS),
        quick_tasks=(USUAL_TASKS,),
        by_size=False,
        floor="counters",
    )
    for key in _MEASURED
    for one in STORES
    if one.key == key
)

WORKLOADS = STORES + UNITS + GRAPHS + AGENTFLOW + BACKENDS + WEB + MEMORY + SESSIONS + SERVICES + OBSERVING
