"""The driver: engine, connections, compiled statements, errors."""
