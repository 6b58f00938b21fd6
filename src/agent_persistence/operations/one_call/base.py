"""The base of one-call operations: calls of one repository's methods, each in a transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Concatenate, Generic, ParamSpec, TypeVar

from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.batched_calls import BatchedCalls
from agent_persistence.operations.transactions import Transactions
from agent_persistence.operations.unit_of_work import Repositories
from agent_persistence.records import AnyUser

P = ParamSpec("P")
T = TypeVar("T")
RepositoryT = TypeVar("RepositoryT")


class OneCall(ABC, Generic[RepositoryT, IdT, UserIdT]):
    """Calls methods of one repository, each in a transaction."""

    def __init__(self, transactions: Transactions[IdT, UserIdT], batched: BatchedCalls[IdT, UserIdT]) -> None:
        self._transactions = transactions
        self._batched = batched

    @abstractmethod
    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> RepositoryT:
        """Return the repository of a unit of work whose methods are called."""

    async def _read(
        self,
        method: Callable[Concatenate[RepositoryT, P], Awaitable[T]],
        user_id: UserIdT | AnyUser,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._transactions.read(self._call_of(method, *args, **kwargs), user_id=user_id)

    async def _look_up(
        self,
        method: Callable[Concatenate[RepositoryT, P], Awaitable[T]],
        user_id: UserIdT | AnyUser,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call a method that reads by one compiled statement."""
        return await self._transactions.look_up(self._call_of(method, *args, **kwargs), user_id=user_id)

    async def _write(
        self,
        method: Callable[Concatenate[RepositoryT, P], Awaitable[T]],
        user_id: UserIdT | AnyUser,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._transactions.write(self._call_of(method, *args, **kwargs), user_id=user_id)

    def _call_of(
        self, method: Callable[Concatenate[RepositoryT, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[Repositories[IdT, UserIdT]], Awaitable[T]]:
        def call(repositories: Repositories[IdT, UserIdT]) -> Awaitable[T]:
            return method(self._repository(repositories), *args, **kwargs)

        return call
