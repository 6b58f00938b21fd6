"""Addresses as providers of PostgreSQL and Redis print them: taken as they are, or refused with the remedy."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio.connection import BlockingConnectionPool, SSLConnection
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.cache import make_redis
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.errors import SettingsError
from agent_persistence.settings import PersistenceSettings

KEYWORDS = {
    *("user", "password", "host", "port", "database", "ssl", "timeout", "server_settings", "target_session_attrs")
}
POSTGRESQL = {
    "Neon": "postgresql://app:pw@ep-cool-1.eu-central-1.aws.neon.tech/db?sslmode=require&channel_binding=require",
    "Neon, without SNI": "postgresql://app:pw@ep-cool-1.neon.tech/db?sslmode=require&options=endpoint%3Dep-cool-1",
    "Supabase, direct": "postgresql://postgres:pw@db.abcdefghij.supabase.co:5432/postgres",
    "Supabase, session": "postgresql://postgres.abcdefghij:pw@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
    "Supabase by Vercel": "postgres://p.abc:pw@aws-0-us-east-1.pooler.supabase.com:5432/postgres?sslmode=require"
    "&supa=base-pooler.x",
    "Heroku": "postgres://user:pw@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d8r82722r2kuvn",
    "Render": "postgresql://user:pw@dpg-abc-a.oregon-postgres.render.com/db",
    "Railway": "postgresql://postgres:pw@containers-us-west-1.railway.app:6543/railway",
    "DigitalOcean": "postgresql://doadmin:pw@db-nyc3-1-do-user-1-0.b.db.ondigitalocean.com:25060/defaultdb"
    "?sslmode=require",
    "Aiven": "postgres://avnadmin:pw@pg-1.aivencloud.com:12691/defaultdb?sslmode=require",
    "RDS": "postgresql://app:pw@db.abc.eu-central-1.rds.amazonaws.com:5432/postgres?sslmode=require&gssencmode=disable",
    "Azure": "postgres://app%40server:pw@server.postgres.database.azure.com/postgres?sslmode=require",
    "Cloud SQL": "postgresql://app:pw@/db?host=/cloudsql/project:region:instance",
    "Cloud SQL, by parameters": "postgresql:///db?user=app&password=pw&host=/cloudsql/project:region:instance",
    "Crunchy Bridge": "postgres://application:pw@p.abc.db.postgresbridge.com:5432/postgres",
    "Timescale": "postgres://tsdbadmin:pw@abc.tsdb.cloud.timescale.com:34567/tsdb?sslmode=require",
    "Fly.io": "postgres://app:pw@app-db.flycast:5432/app?sslmode=disable",
    "PlanetScale": "postgresql://app:pw@eu.pg.psdb.cloud:5432/postgres?sslmode=verify-full&sslrootcert=system",
    "SQLAlchemy and asyncpg": "postgresql+asyncpg://app:pw@db/db?ssl=require",
    "JDBC": "postgresql://app:pw@db/db?ssl=true",
    "node-postgres": "postgresql://app:pw@db/db?sslmode=no-verify&uselibpqcompat=true",
    "libpq's keepalives": "postgresql://app:pw@db/db?keepalives=1&keepalives_idle=30&keepalives_interval=10"
    "&keepalives_count=5&tcp_user_timeout=1000&connect_timeout=10&target_session_attrs=read-write&sslsni=1",
    "libpq's defaults": "postgresql://app:pw@db/db?client_encoding=utf8&fallback_application_name=app&gssencmode=prefer",
}
POOLERS = {
    "Supabase for Prisma": "postgresql://p.abc:pw@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=true",
    "Vercel for Prisma": "postgres://default:pw@ep-a-pooler.us-east-1.postgres.vercel-storage.com/db"
    "?pgbouncer=true&connect_timeout=15&sslmode=require",
    "asyncpg behind a pooler": "postgresql+asyncpg://app:pw@db/db?prepared_statement_cache_size=0",
}
REFUSED = {
    "postgresql://app:pw@db/db?schema=app": "PERSISTENCE_DB_SCHEMA",
    "postgresql://app:pw@db/db?connection_limit=1": "PERSISTENCE_POOL_SIZE",
    "postgresql://app:pw@db/db?statement_timeout=5000": "PERSISTENCE_STATEMENT_TIMEOUT",
    "postgresql://app:pw@db/db?gssencmode=require": "gssencmode must be disable or prefer",
    "postgresql://app:pw@db/db?client_encoding=latin1": "client_encoding must be utf8",
    "postgresql://app:pw@db/db?sslmode=require&sslrootcert=system": "needs sslmode=verify-full",
    "postgresql://app:pw@db/db?replication=database": "is not known; these are",
}
REDIS = {
    "Upstash": "rediss://default:pw@eu1-pet-1.upstash.io:6379",
    "Redis Cloud": "redis://default:pw@redis-12345.c1.us-east-1-2.ec2.cloud.redislabs.com:12345",
    "Heroku": "rediss://:pw@ec2-1-2-3-4.compute-1.amazonaws.com:23456?ssl_cert_reqs=none",
    "Heroku, as Celery spells it": "rediss://:pw@ec2-1-2-3-4.compute-1.amazonaws.com:23456?ssl_cert_reqs=CERT_NONE",
    "Render": "redis://red-abc:6379",
    "Railway": "redis://default:pw@redis.railway.internal:6379",
    "DigitalOcean": "rediss://default:pw@db-redis-nyc3-1.b.db.ondigitalocean.com:25061",
    "Aiven for Valkey": "valkeys://default:pw@valkey-1.aivencloud.com:12692",
    "ElastiCache": "rediss://master.agents.abc.euc1.cache.amazonaws.com:6379/0",
    "Azure": "rediss://:pw%3D@agents.redis.cache.windows.net:6380/0",
    "Memorystore": "redis://10.0.0.3:6379",
    "Fly.io": "redis://default:pw@fly-agents.upstash.io:6379",
    "Vercel": "rediss://default:pw@agents-1.kv.vercel-storage.com:35000?protocol=3&family=0",
    "a server beside the application": "valkey://localhost:6379/1?client_name=agents&socket_keepalive=true",
}
REDIS_REFUSED = {
    "rediss://:pw@h:6379?ssl_cert_reqs=never": "ssl_cert_reqs must be one of none, optional, required",
    "redis://:pw@h:6379?ssl_cert_reqs=none": "needs an address that begins with rediss://",
    "redis://:pw@h:6379?ssl=true": "begin the address with rediss://",
    "redis://:pw@h:6379?socket_timeout=5": "PERSISTENCE_CACHE_TIMEOUT_MS",
    "redis://:pw@h:6379?decode_responses=true": "the cache needs bytes",
    "redis://:pw@h:6379?protocol=4": "protocol must be one of 2, 3",
    "redis://:pw@h:6379?client_nme=x": "'client_nme' is not known; these are",
    "redis+sentinel://h:26379/master": "pass redis=Sentinel",
}


def settings(**values: Any) -> PersistenceSettings:
    return PersistenceSettings(_env_file=None, **values)


def database(address: str, **values: Any) -> DatabaseUrl:
    found = settings(database_url=address, **values).database
    assert found is not None
    return found


@pytest.mark.parametrize("address", POSTGRESQL.values(), ids=POSTGRESQL)
def test_what_a_provider_of_postgresql_prints_is_taken(address: str) -> None:
    url = database(address)
    _, keywords = PGDialect_asyncpg().create_connect_args(url.sqlalchemy_url)  # type: ignore[no-untyped-call]  # theirs
    keywords |= url.connect_args

    assert keywords["user"].startswith(("p", "app", "user", "doadmin", "avnadmin", "tsdbadmin"))
    assert (keywords["password"], url.safe.count("pw")) == ("pw", 0)
    assert set(keywords) <= KEYWORDS
    if any(mode in address for mode in ("sslmode=require", "sslmode=no-verify", "ssl=require", "ssl=true")):
        assert keywords["ssl"] == "require"


def test_the_certificates_of_the_system_check_the_name_of_the_server() -> None:
    context = database(POSTGRESQL["PlanetScale"]).connect_args["ssl"]

    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("address", POOLERS.values(), ids=POOLERS)
def test_an_address_that_names_a_pooler_asks_for_the_setting(address: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        settings(database_url=address)

    assert refusal.value.variable == "PERSISTENCE_PGBOUNCER"
    assert database(address, pgbouncer=True).hosts


@pytest.mark.parametrize(("address", "remedy"), REFUSED.items())
def test_a_parameter_that_is_a_setting_here_is_refused_with_its_name(address: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        settings(database_url=address)

    assert refusal.value.variable == "PERSISTENCE_DATABASE_URL"
    assert remedy in refusal.value.reason


async def test_the_server_takes_what_is_harmless(servers: EmbeddedServers) -> None:
    harmless = (
        urlsplit(POSTGRESQL["libpq's keepalives"]).query + "&channel_binding=require&gssencmode=prefer&ssl=disable"
    )
    url = database(f"{servers.database_url}&{harmless}")

    engine = create_async_engine(url.sqlalchemy_url, connect_args=url.connect_args)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.parametrize("address", REDIS.values(), ids=REDIS)
def test_what_a_provider_of_redis_prints_makes_a_connection(address: str) -> None:
    url = settings(redis_url=address).redis_url
    assert url is not None

    connection: Any = BlockingConnectionPool.from_url(url.get_secret_value()).make_connection()

    assert isinstance(connection, SSLConnection) == address.startswith(("rediss", "valkeys"))
    assert connection.host == urlsplit(address).hostname
    if "CERT_NONE" in address or "=none" in address:
        assert connection.ssl_context.cert_reqs == ssl.CERT_NONE


@pytest.mark.parametrize(("address", "remedy"), REDIS_REFUSED.items())
def test_a_redis_address_that_the_client_would_fail_with_later_is_refused(address: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        settings(redis_url=address)

    assert refusal.value.variable == "PERSISTENCE_REDIS_URL"
    assert remedy in refusal.value.reason
    assert "pw" not in str(refusal.value)


async def test_redis_answers_at_an_address_with_parameters(servers: EmbeddedServers) -> None:
    parameters = "client_name=agents&protocol=3&health_check_interval=30&family=0&max_connections=5"
    separator = "&" if "?" in servers.redis_url else "?"
    url = settings(redis_url=f"{servers.redis_url}{separator}{parameters}").redis_url
    assert url is not None

    async with make_redis(url.get_secret_value(), timeout_seconds=2) as client:
        assert await client.client_getname() == b"agents"
