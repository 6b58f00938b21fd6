"""The repositories as one-call operations: each call is one transaction.

A call is repeated as a whole while a retry may help, and runs to its end if the caller is cancelled. Reads need no
transaction, and a cache hit needs no connection.
"""

from agent_persistence.operations.one_call.checkpoints import OneCallCheckpoints
from agent_persistence.operations.one_call.entities import OneCallEntities
from agent_persistence.operations.one_call.items import OneCallItems
from agent_persistence.operations.one_call.messages import OneCallMessages
from agent_persistence.operations.one_call.states import OneCallStates
from agent_persistence.operations.one_call.threads import OneCallThreads
from agent_persistence.operations.one_call.tool_results import OneCallToolResults

__all__ = [
    "OneCallCheckpoints",
    "OneCallEntities",
    "OneCallItems",
    "OneCallMessages",
    "OneCallStates",
    "OneCallThreads",
    "OneCallToolResults",
]
