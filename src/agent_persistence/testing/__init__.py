"""For tests: the contract that every checkpointer keeps, ours and yours.

    class TestMyCheckpointer(CheckpointerContract):
        backend = MyCheckpointer

        @pytest_asyncio.fixture
        async def open_checkpointer(self): ...

Needs pytest and pytest-asyncio.
"""

import pytest

for part in ("contract", "states_contract", "threads_contract", "expiry_contract"):
    pytest.register_assert_rewrite(f"{__name__}.{part}")  # so that its assertions explain themselves

from agent_persistence.testing.checkpointer_contract import CheckpointerContract  # noqa: E402 - after the lines above
from agent_persistence.testing.contract import OpenCheckpointer  # noqa: E402 - after the lines above

__all__ = ["CheckpointerContract", "OpenCheckpointer"]
