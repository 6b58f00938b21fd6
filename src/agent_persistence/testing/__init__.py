"""For tests: the contract that every checkpointer keeps, ours and yours.

    class TestMyCheckpointer(CheckpointerContract):
        checkpointer = MyCheckpointer

        @pytest_asyncio.fixture
        async def open_checkpointer(self): ...

Needs pytest and pytest-asyncio.
"""

import pytest

pytest.register_assert_rewrite("agent_persistence.testing.checkpointer_contract")

from agent_persistence.testing.checkpointer_contract import (  # noqa: E402  # its assertions explain themselves first
    CheckpointerContract,
    OpenCheckpointer,
)

__all__ = ["CheckpointerContract", "OpenCheckpointer"]
