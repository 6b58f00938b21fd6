"""The contract of checkpointers, as tests that a backend inherits.

    class TestMyCheckpointer(CheckpointerContract):
        backend = MyCheckpointer

        @pytest_asyncio.fixture
        async def open_checkpointer(self): ...

Needs pytest and pytest-asyncio.
"""

import pytest

for part in ("contract", "states_contract", "threads_contract", "expiry_contract"):
    pytest.register_assert_rewrite(f"{__name__}.{part}")  # before its import: a failed assertion then shows its values

from agent_persistence.testing.contract import OpenCheckpointer  # noqa: E402 - after the lines above
from agent_persistence.testing.expiry_contract import ExpiryContract  # noqa: E402 - after the lines above
from agent_persistence.testing.states_contract import StatesContract  # noqa: E402 - after the lines above
from agent_persistence.testing.threads_contract import ThreadsContract  # noqa: E402 - after the lines above

__all__ = ["CheckpointerContract", "OpenCheckpointer"]


class CheckpointerContract(StatesContract, ThreadsContract, ExpiryContract):
    """The tests of a checkpointer: inherit from it, set ``backend``, and override the fixture ``open_checkpointer``.

    Tests of features that the backend does not declare are skipped; tests that their arguments are refused run instead.
    Each test has a new owner, so the store need not be empty.

    Attributes:
        backend: the class to test.
    """
