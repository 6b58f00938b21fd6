"""The fixtures and helper functions of the contract's tests."""

from __future__ import annotations

import asyncio
import uuid
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import pytest
import pytest_asyncio

from agent_persistence.checkpointer import Capability, Checkpoint, Checkpointer
from agent_persistence.errors import InvalidInputError

Test = TypeVar("Test", bound=Callable[..., Any])
Named = Callable[..., list[str]]
"""The type of the fixture ``named``: returns a thread id for each name."""


class OpenCheckpointer(Protocol):
    """Opens checkpointers over one store; each call opens another one."""

    @abstractmethod
    async def __call__(self, user_id: str, *, namespace: str = "contract-a") -> Checkpointer:
        """Open a checkpointer.

        Args:
            user_id: its owner.
            namespace: ``"contract-a"`` or ``"contract-b"``; a backend without namespaces ignores it.
        """


def needs(capability: Capability, *, is_declared: bool = True) -> Callable[[Test], Test]:
    """Run a test only if the backend declares a capability, or only if it does not."""

    def marked(test: Test) -> Test:
        # An attribute in place of a pytest marker, which the configuration of each project would have to register.
        test.needs = capability, is_declared  # type: ignore[attr-defined]  # of a function
        return test

    return marked


needs_absence_of = partial(needs, is_declared=False)


@pytest.mark.asyncio
class Contract:
    """The fixtures of the contract.

    Attributes:
        backend: the class to test.
    """

    backend: ClassVar[type[Checkpointer]]

    @pytest.fixture
    def open_checkpointer(self) -> OpenCheckpointer:
        """Override it: provide an ``OpenCheckpointer``, and close at the end the checkpointers that it opened."""
        pytest.fail("override the fixture open_checkpointer")

    async def let_pass(self, seconds: float) -> None:
        """Let time pass; override it to set the backend's clock, which makes the tests faster.

        Args:
            seconds: how long.
        """
        await asyncio.sleep(seconds)

    @pytest.fixture(autouse=True)
    def _only_what_is_declared(self, request: pytest.FixtureRequest) -> None:
        needed, is_declared = getattr(request.function, "needs", (None, True))
        if needed is not None and (needed in self.backend.capabilities) is not is_declared:
            pytest.skip(f"{'not declared' if is_declared else 'declared'}: {needed.name}")

    @pytest.fixture
    def owner(self) -> str:
        """An owner without threads."""
        # In place of an empty store: tests may run concurrently, and on a store with other data.
        return f"contract-{uuid.uuid4().hex}"

    @pytest.fixture
    def named(self, owner: str) -> Named:
        """A function that returns a thread id for each name, unique to this test: a store may share ids among owners.

        Override it for a backend whose ids have another form.
        """
        return lambda *names: [f"{name}-{owner}" for name in names]

    @pytest.fixture
    def thread_id(self, named: Named) -> str:
        """The id of a thread that does not exist."""
        return named("t")[0]

    @pytest_asyncio.fixture
    async def checkpointer(self, open_checkpointer: OpenCheckpointer, owner: str) -> Checkpointer:
        """A checkpointer of ``owner``."""
        return await open_checkpointer(owner)


async def refused(work: Coroutine[Any, Any, Any]) -> str:
    """Await work that must raise ``InvalidInputError``; return the field that it names."""
    with pytest.raises(InvalidInputError) as refusal:
        await work
    return refusal.value.field


async def together(works: list[Coroutine[Any, Any, Any]]) -> tuple[list[Any], list[BaseException]]:
    """Run coroutines concurrently; return the results and the errors."""
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)], errors


async def pages_of(checkpointer: Checkpointer, limit: int) -> list[list[str]]:
    """List all threads; return the ids on each page."""
    page = await checkpointer.list_threads(limit=limit)
    pages = [ids_of(page)]
    while page.after is not None:
        page = await checkpointer.list_threads(limit=limit, after=page.after)
        pages.append(ids_of(page))
    return pages


def ids_of(page: Any) -> list[str]:
    """Return the ids of the threads on a page."""
    return [thread.thread_id for thread in page]


def state_of(found: Checkpoint | None) -> Any:
    """Return the state of a checkpoint that must not be ``None``."""
    assert found is not None
    return found.state


def exact(value: Any) -> Any:
    """Return a value that is equal for JSON of equal values and types only; ``==`` ignores types and signs of zeros."""
    if type(value) is dict:
        return {key: exact(item) for key, item in value.items()}
    if type(value) is list:
        return [exact(item) for item in value]
    return type(value), repr(value)  # -0.0 == 0.0, but their texts differ
