"""A small chat backend: FastAPI, a table of users of its own, and agent-persistence in the same database."""
