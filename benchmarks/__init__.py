"""Measures this package beside hand-written asyncpg and beside other stores, on real servers: ``make bench``."""
