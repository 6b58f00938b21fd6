"""Internal: the driver: engine, connections, compiled statements, errors."""
