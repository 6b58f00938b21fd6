"""A scope for reads, which commits each statement by itself, lets nothing be written."""

from __future__ import annotations

from typing import Any

import pytest

from agent_persistence.errors import MisuseError
from agent_persistence.sessions.pooled_scope import PooledScope


async def test_nothing_is_written_where_there_is_no_transaction() -> None:
    unused: Any = None
    scope: PooledScope[str, str] = PooledScope(unused, "ada", unused, unused, unused)

    with pytest.raises(MisuseError, match="transaction"):
        await scope.write(unused, unused)
    with pytest.raises(MisuseError, match="transaction"):
        await scope.copy(unused, [], [])
    with pytest.raises(MisuseError, match="transaction"):
        scope.touch(unused)
