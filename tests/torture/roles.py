"""What client processes do and have beyond what all do: each takes one of these roles."""

from __future__ import annotations

from torture.servers import PostgreSQL

LIMITED_ROLE = "application"
"""The role of PostgreSQL that row-level security holds for: neither superuser nor owner of the tables."""
MEASURED = {"PERSISTENCE_METRICS": "true"}
"""Not for all: where durations are off, calls go another way."""
SECURED, POOLED, DEGRADED = "row-level security", "PgBouncer", "degraded mode"


def address_of(user: str, hosts: str) -> str:
    return f"postgresql://{user}@{hosts}/postgres?target_session_attrs=primary"


def roles(hosts: str, pooler_port: int | None) -> dict[str, dict[str, str]]:
    """The environment of each role, by its name.

    Args:
        hosts: those of the database.
        pooler_port: where PgBouncer listens, if there is one.
    """
    secured = {
        "PERSISTENCE_DATABASE_URL": address_of(LIMITED_ROLE, hosts),
        "PERSISTENCE_ROW_LEVEL_SECURITY": "true",
        **MEASURED,
    }
    pooled = {
        "PERSISTENCE_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{pooler_port}/postgres",
        "PERSISTENCE_PGBOUNCER": "true",
        **MEASURED,
    }
    return {DEGRADED: {}, SECURED: secured, **({} if pooler_port is None else {POOLED: pooled})}


async def grant_rights(primary: PostgreSQL) -> None:
    """Make the role that owns nothing."""
    connection = await primary.connect()
    await connection.execute(
        f"CREATE ROLE {LIMITED_ROLE} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO"
        f" {LIMITED_ROLE}; GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA public TO {LIMITED_ROLE}"
    )
    await connection.close()
