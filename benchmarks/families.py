"""The families of workloads: each is measured in a run of its own, by contenders of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.furnishing import prepare_threads
from benchmarks.run import Prepare
from benchmarks.stores import prepare_store
from benchmarks.workload import Workload
from benchmarks.workloads import AGENTFLOW, BACKENDS, GRAPHS, MEMORY, OBSERVING, SERVICES, SESSIONS, STORES, UNITS, WEB


@dataclass(frozen=True, slots=True)
class Family:
    """What is measured together.

    Attributes:
        contenders: for each name the module and the class.
        prepare: makes each ready.
    """

    workloads: tuple[Workload, ...]
    contenders: Mapping[str, str]
    prepare: Prepare = prepare_threads


STORE_FAMILY = Family(
    STORES,
    {
        "floor": "floor:Floor",
        "floor copy": "floor_bulk:FloorCopy",
        "floor executemany": "floor_bulk:FloorExecutemany",
        "ours": "ours:Ours",
        "langgraph": "contenders.langgraph:LangGraph",
        "langgraph-per-task": "contenders.langgraph:LangGraphPerTask",
        "openai-agents": "contenders.openai_agents:OpenAIAgents",
        "adk": "contenders.adk:ADK",
        "agno": "contenders.agno_db:Agno",
        "agentflow": "contenders.agentflow_store:Agentflow",
    },
    prepare_store,
)
EVERYDAY_FAMILIES = {
    "w14-store": Family(
        MEMORY,
        {"langgraph": "frameworks.langgraph_store:LangGraph", "ours": "frameworks.langgraph_store:Ours"},
    ),
    "w14-openai": Family(
        SESSIONS,
        {"openai-agents": "frameworks.openai_sessions:SDK", "ours": "frameworks.openai_sessions:Ours"},
    ),
    "w14-adk": Family(SERVICES, {"adk": "frameworks.adk_services:ADK", "ours": "frameworks.adk_services:Ours"}),
}
FAMILIES = (
    STORE_FAMILY,
    Family(UNITS, {"floor": "units.by_hand:ByHand", "ours": "units.ours:Ours", "orm": "units.orm:Orm"}),
    Family(
        GRAPHS,
        {
            "langgraph": "graphs.peers:LangGraph",
            "langgraph-per-task": "graphs.peers:LangGraphPerTask",
            "in-memory": "graphs.savers:InMemory",
            "ours": "graphs.savers:Ours",
            "ours mirrored": "graphs.savers:OursMirrored",
        },
    ),
    Family(
        AGENTFLOW,
        {"agentflow": "agentflow_calls.checkpointers:Agentflow", "ours": "agentflow_calls.checkpointers:Ours"},
    ),
    Family(
        BACKENDS,
        {
            "postgresql": "backends.checkpointers:PostgreSQL",
            "redis": "backends.checkpointers:InRedis",
            "memory": "backends.checkpointers:Memory",
            "dynamodb": "backends.dynamodb:DynamoDB",
        },
    ),
    Family(
        WEB,
        {
            "floor": "web.contenders:ByHand",
            "ours": "web.contenders:Ours",
            "orm": "web.contenders:PlainSQLAlchemy",
        },
    ),
    *EVERYDAY_FAMILIES.values(),
    Family(
        OBSERVING,
        {
            "counters": "observing.durations:Counters",
            "twin": "observing.durations:Twin",
            "durations": "observing.durations:Durations",
            "unsampled": "observing.spans:Unsampled",
            "recorded": "observing.spans:Recorded",
        },
        prepare_store,
    ),
)
