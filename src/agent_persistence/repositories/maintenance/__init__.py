"""Rows that stores keep about themselves: background jobs, the outbox, the database's identity."""
