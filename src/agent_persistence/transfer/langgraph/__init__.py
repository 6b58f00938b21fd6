"""Imports checkpoints from the tables of LangGraph's own PostgreSQL checkpointer (versions 2 and 3).

async with open_tables("postgresql://...") as tables:
    async for thread in import_threads(tables, persistence, owner_of=lambda metadata: "u-42"):
        print(thread.thread_id, thread.checkpoints, thread.refusal)

Values are copied as bytes, so no class of the application is imported, and none has to exist. With ``messages``, those
of a channel of messages are read too.
"""

from agent_persistence.transfer.langgraph.importing import ImportedThread, MessageWriter, import_threads
from agent_persistence.transfer.langgraph.tables import Tables, open_tables

__all__ = ["ImportedThread", "MessageWriter", "Tables", "import_threads", "open_tables"]
