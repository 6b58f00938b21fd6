"""What the tests of the contract share: fixtures, and the ways to ask."""

from __future__ import annotations

import asyncio
import uuid
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Protocol, TypeVar

import pytest
import pytest_asyncio

from agent_persistence.checkpointer import Capability, Checkpoint, Checkpointer
from agent_persistence.errors import InvalidInputError

Test = TypeVar("Test", bound=Callable[..., Any])
Named = Callable[..., list[str]]


class OpenCheckpointer(Protocol):
    """Opens a checkpointer of an owner, each time another one, over the same store."""

    @abstractmethod
    async def __call__(self, user_id: str, *, namespace: str = "contract-a") -> Checkpointer:
        """Open one; ``namespace`` is ``"contract-a"`` or ``"contract-b"``."""


def needs(capability: Capability) -> Callable[[Test], Test]:
    """Skip a test where the backend does not declare what it is about."""

    def marked(test: Test) -> Test:
        test.needs = capability  # type: ignore[attr-defined]  # of a function
        return test

    return marked


def for_lack_of(capability: Capability) -> Callable[[Test], Test]:
    """Skip a test where the backend declares what it is about the absence of."""

    def marked(test: Test) -> Test:
        test.lacks = capability  # type: ignore[attr-defined]  # of a function
        return test

    return marked


@pytest.mark.asyncio
class Contract:
    """What the tests of a contract are given.

    Attributes:
        backend: the class that is tested.
    """

    backend: ClassVar[type[Checkpointer]]

    @pytest.fixture
    def open_checkpointer(self) -> OpenCheckpointer:
        """To be overridden: return an ``OpenCheckpointer``, and close at the end what it has opened."""
        pytest.fail("override the fixture open_checkpointer")

    async def let_pass(self, seconds: float) -> None:
        """Let time pass; a backend whose clock can be set does that instead."""
        await asyncio.sleep(seconds)

    @pytest.fixture(autouse=True)
    def _only_what_is_declared(self, request: pytest.FixtureRequest) -> None:
        needed, lacking = (getattr(request.function, name, None) for name in ("needs", "lacks"))
        if needed is not None and needed not in self.backend.capabilities:
            pytest.skip(f"not declared: {needed.name}")
        if lacking is not None and lacking in self.backend.capabilities:
            pytest.skip(f"declared: {lacking.name}")

    @pytest.fixture
    def owner(self) -> str:
        """An owner who has nothing yet."""
        return f"contract-{uuid.uuid4().hex}"

    @pytest.fixture
    def named(self, owner: str) -> Named:
        """Makes ids of threads; in a store where all owners share them, no other test has these."""
        return lambda *names: [f"{name}-{owner}" for name in names]

    @pytest.fixture
    def thread_id(self, named: Named) -> str:
        """A thread that does not exist yet."""
        return named("t")[0]

    @pytest_asyncio.fixture
    async def checkpointer(self, open_checkpointer: OpenCheckpointer, owner: str) -> Checkpointer:
        """A checkpointer of the test's owner."""
        return await open_checkpointer(owner)


async def refused(work: Coroutine[Any, Any, Any]) -> str:
    """The field by whose name something was refused."""
    with pytest.raises(InvalidInputError) as refusal:
        await work
    return refusal.value.field


async def together(works: list[Coroutine[Any, Any, Any]]) -> tuple[list[Any], list[BaseException]]:
    """Start everything before anything is waited for; return what came of it, and what failed."""
    ended = await asyncio.gather(*works, return_exceptions=True)
    failed = [one for one in ended if isinstance(one, BaseException)]
    return [one for one in ended if not isinstance(one, BaseException)], failed


async def pages_of(checkpointer: Checkpointer, limit: int) -> list[list[str]]:
    """Read the list of threads to its end; return the ids on each page."""
    pages, after = [], None
    while True:
        page = await checkpointer.list_threads(limit=limit, after=after)
        pages.append(ids_of(page))
        after = page.after
        if after is None:
            return pages


def ids_of(page: Any) -> list[str]:
    """Return the ids of the threads on a page."""
    return [thread.thread_id for thread in page]


def state_of(found: Checkpoint | None) -> Any:
    """Return the state of a checkpoint that must be there."""
    assert found is not None
    return found.state


def exact(value: Any) -> Any:
    """What two values share when they are equal, of the same types, with zeros of the same sign, in any key order."""
    if type(value) is dict:
        return {key: exact(item) for key, item in value.items()}
    if type(value) is list:
        return [exact(item) for item in value]
    return type(value), repr(value)
