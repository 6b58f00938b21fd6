"""A chat with a LangGraph agent: FastAPI, server-sent events, and agent-persistence underneath."""
