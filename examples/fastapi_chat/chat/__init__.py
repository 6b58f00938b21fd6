"""A small chat backend: FastAPI, its own table of users, and agent-persistence in the same database."""
