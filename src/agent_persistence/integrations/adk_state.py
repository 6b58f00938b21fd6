"""State that sessions of Google ADK share, in items: that of an app, and that of a user of it.

Each key is an item, so two sessions that change different keys lose nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from agent_persistence.encoding.json_escapes import from_storable, to_storable
from agent_persistence.forms.adk import ADKForm
from agent_persistence.records import ItemRecord, Namespace, NewItem

APP: Final = "app"
USER: Final = "user"
_APP_PREFIX, _USER_PREFIX, _TEMP_PREFIX = "app:", "user:", "temp:"
_PAGE: Final = 10_000
_VALUE: Final = "value"

State = dict[str, Any]
Search = Callable[..., Awaitable[list[ItemRecord]]]


class Delta(NamedTuple):
    """Changes of the state, by whom they concern; without ``temp:`` keys, which are never stored.

    Attributes:
        app: of keys that begin with ``app:``, without that.
        user: of keys that begin with ``user:``, without that.
        session: of all others.
    """

    app: State
    user: State
    session: State


def delta_of(changes: Mapping[str, Any]) -> Delta:
    """Divide changes by the prefixes of their keys."""
    delta = Delta({}, {}, {})
    for key, value in changes.items():
        if key.startswith(_APP_PREFIX):
            delta.app[key.removeprefix(_APP_PREFIX)] = value
        elif key.startswith(_USER_PREFIX):
            delta.user[key.removeprefix(_USER_PREFIX)] = value
        elif not key.startswith(_TEMP_PREFIX):
            delta.session[key] = value
    return delta


def merged(session: Mapping[str, Any], user: Mapping[str, Any], app: Mapping[str, Any]) -> State:
    """Return the state that a session shows."""
    of_app = {_APP_PREFIX + key: value for key, value in app.items()}
    return {**session, **of_app, **{_USER_PREFIX + key: value for key, value in user.items()}}


def items_of(scope: str, app_name: str, changes: Mapping[str, Any]) -> Iterable[NewItem]:
    """Return the items that hold values of shared state."""
    namespace = _namespace(scope, app_name)
    return [NewItem(namespace=namespace, key=key, value={_VALUE: to_storable(value)}) for key, value in changes.items()]


async def shared_state(search: Search, scope: str, app_name: str) -> State:
    """Return the state of an app, or of a user of it.

    Args:
        search: finds items of the owner of that state.
        scope: ``APP`` or ``USER``.
        app_name: of the app.
    """
    found: State = {}
    offset = 0
    while True:
        page = await search(_namespace(scope, app_name), limit=_PAGE, offset=offset)
        found |= {item.key: from_storable(item.value[_VALUE]) for item in page}
        offset += len(page)
        if len(page) < _PAGE:
            return found


def _namespace(scope: str, app_name: str) -> Namespace:
    # A label holds no period.
    return (ADKForm.key, scope, app_name.replace("%", "%25").replace(".", "%2E"))
