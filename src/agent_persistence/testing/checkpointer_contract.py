"""What every checkpointer does, as tests that a backend inherits."""

from __future__ import annotations

from agent_persistence.testing.expiry_contract import ExpiryContract
from agent_persistence.testing.states_contract import StatesContract
from agent_persistence.testing.threads_contract import ThreadsContract


class CheckpointerContract(StatesContract, ThreadsContract, ExpiryContract):
    """Inherit from it, name the class, and say how one is opened.

    Tests of what the backend does not declare are skipped. Each test has an owner of its own, so the store may hold
    anything already.

    Attributes:
        backend: the class that is tested.
    """
