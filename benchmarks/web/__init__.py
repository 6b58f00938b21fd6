"""w13: a chat backend over HTTP: the example, and the same endpoints by hand and by SQLAlchemy."""
