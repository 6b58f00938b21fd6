"""FastAPI: threads, messages and states in the transaction of a request (extra ``fastapi``).

    app = FastAPI(responses=problems(404, 409, 422, 503))
    install(app, lambda: Persistence(PersistenceSettings(), engine=engine))

    SessionDep = Annotated[AsyncSession, Depends(get_session)]  # the application's
    UnitOfWorkDep = Annotated[UnitOfWork, joined_unit_of_work(SessionDep, current_user_id)]

    @app.get("/threads")
    async def list_threads(filters: ThreadFilters, uow: UnitOfWorkDep) -> Page[ThreadRecord]:
        return await uow.threads.page(**filters)

An application without sessions uses ``unit_of_work(current_user_id)``. ``Depends(get_persistence)`` injects the
``Persistence``.
"""

from agent_persistence.errors import MissingExtraError

try:
    import fastapi  # noqa: F401 - imported here, so that one error names the missing extra
except ImportError as error:
    raise MissingExtraError("fastapi") from error

from agent_persistence.integrations.fastapi.application import get_persistence, install
from agent_persistence.integrations.fastapi.claims import claim_thread
from agent_persistence.integrations.fastapi.filters import MessageFilters, MessageQuery, ThreadFilters, ThreadQuery
from agent_persistence.integrations.fastapi.problems import problem_of, problems
from agent_persistence.integrations.fastapi.units_of_work import joined_unit_of_work, unit_of_work

__all__ = [
    "MessageFilters",
    "MessageQuery",
    "ThreadFilters",
    "ThreadQuery",
    "claim_thread",
    "get_persistence",
    "install",
    "joined_unit_of_work",
    "problem_of",
    "problems",
    "unit_of_work",
]
