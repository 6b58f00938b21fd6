"""SQL behind the package's back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text

from agent_persistence import Persistence


async def run_sql(store: Persistence[Any, Any], statement: str, **parameters: Any) -> Sequence[Row[Any]]:
    async with store.engine.begin() as connection:
        return (await connection.execute(text(statement), parameters)).all()
