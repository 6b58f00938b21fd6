"""Encodings of values for storage; no I/O. Public for authors of a checkpointer: ``exact_json`` and ``cursors``."""
