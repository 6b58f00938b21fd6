"""A form writes a framework's items as messages, and reads the messages of all frameworks as items.

A message is stored as any program would store it, in the chat-completions shape. What an item has beyond that is in the
row's ``meta``, under the key of its form, so that the item comes back equal:

- ``rest``: the difference between the item that the messages alone would be read as, and this one;
- ``whole``: the item, where its messages say too little of it, or hold what JSONB cannot;
- ``as``: a hint of the form, for items that are said in the same way;
- ``parts`` and ``part``: of an item that is several messages, how many they are, and which one this is.

A message that another program has edited since is read as it is now.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from agent_persistence.encoding.chat_messages import check_shape
from agent_persistence.encoding.exact_json import encode_json, sanitize
from agent_persistence.encoding.json_escapes import from_storable, to_storable
from agent_persistence.errors import InvalidInputError
from agent_persistence.forms.differences import changed, difference, is_same
from agent_persistence.records import MessageRecord, NewMessage

Item = dict[str, Any]
Chat = dict[str, Any]


_NOTHING: Final[Chat] = {"role": "assistant", "content": ""}
_OWN_NAMES: Final = frozenset({"rest", "whole", "as", "parts", "part"})


class Said(NamedTuple):
    """An item in the chat-completions shape.

    Attributes:
        chats: its messages; none if it is no part of the conversation.
        hint: tells ``Form.items`` how the item was written, where there are several ways.
        shown: for an item that is no part of the conversation: what people may see of it.
    """

    chats: Sequence[Chat]
    hint: str | None = None
    shown: Chat | None = None


class Form(ABC):
    """A framework's way to write a conversation, in JSON: no framework is imported to read what another one wrote."""

    key: ClassVar[str]
    """Names the form in ``meta`` and in ``aside``."""

    @abstractmethod
    def say(self, item: Item) -> Said:
        """Return the messages that say what an item says. Any JSON object is an item; an unknown kind says nothing."""

    @abstractmethod
    def items(self, chat: Chat, hint: str | None = None) -> list[Item]:
        """Return the items that say what a message says, whoever wrote it.

        Args:
            chat: the message.
            hint: what ``say`` returned, for a message of this form.
        """

    def joined(self, items: Sequence[Item]) -> Item | None:
        """Return the one item that was said in several messages, given the item of each; ``None`` if there is none."""
        return items[0] if len(items) == 1 else None


class Found(NamedTuple):
    """An item that was read.

    Attributes:
        item: the item.
        records: the rows that hold it. A row of another framework may hold several items.
        is_own: whether its rows say that it was written in this form; otherwise it says what a message says.
    """

    item: Item
    records: Sequence[MessageRecord[Any]]
    is_own: bool


def written(form: Form, item: Item, field: str = "item") -> list[NewMessage[Any]]:
    """Write an item as messages.

    Args:
        form: the form of its framework.
        item: a JSON object.
        field: names the item in errors.

    Raises:
        InvalidInputError: it is nested too deeply.
    """
    try:
        return _written(form, item)
    except RecursionError:
        raise InvalidInputError(field, "is nested too deeply") from None


def read(form: Form, records: Sequence[MessageRecord[Any]]) -> list[Found]:
    """Read messages of a thread, in their order, as items of a form.

    Args:
        form: the form.
        records: messages, and the asides of this form.
    """
    found: list[Found] = []
    place = 0
    while place < len(records):
        group = records[place : place + _number_of_parts(form, records, place)]
        item = own_item(form, group)
        if item is not None:
            found.append(Found(item, group, is_own=True))
        else:
            found += [Found(one, [row], is_own=False) for row in group for one in form.items(row.message)]
        place += len(group)
    return found


def number_of_later_parts(form: Form, records: Sequence[MessageRecord[Any]]) -> int:
    """Return how many of the first rows are later parts of an item, which begins on the page before."""
    return next((place for place, row in enumerate(records) if _own(form, row).get("part", 0) == 0), len(records))


def without_forms(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``meta`` of a message without what forms keep in it: for a copy of a message that was edited."""
    return {name: value for name, value in meta.items() if not _is_of_a_form(value)}


def _is_of_a_form(value: Any) -> bool:
    return isinstance(value, dict) and not _OWN_NAMES.isdisjoint(value)


def _written(form: Form, item: Item) -> list[NewMessage[Any]]:
    said = form.say(item)
    chats = [_storable(chat) for chat in said.chats]
    if not chats or not all(map(_is_chat, chats)):
        shown = _storable(said.shown or _NOTHING)
        return [NewMessage(message=shown, meta={form.key: {"whole": to_storable(item)}}, aside=form.key)]
    metas: list[dict[str, Any]] = [{"part": part} if part else {} for part in range(len(chats))]
    metas[0] = rest_of(form, chats, said.hint, item)
    if len(chats) > 1:
        metas[0]["parts"] = len(chats)
    return [
        NewMessage(message=chat, meta={form.key: meta} if meta else {}) for chat, meta in zip(chats, metas, strict=True)
    ]


def rest_of(form: Form, chats: Sequence[Chat], hint: str | None, item: Item) -> dict[str, Any]:
    """Return what an item has beyond the messages that say it, for the ``meta`` of the first one.

    Args:
        form: the form.
        chats: the messages, as they are stored.
        hint: see ``Said``.
        item: the item.
    """
    derived = _derived(form, chats, hint)
    if derived is not None:
        rest = difference(derived, item)
        if "is" not in rest:
            hinted = {} if hint is None else {"as": hint}
            return {**hinted, "rest": to_storable(rest)} if rest else hinted
    return {"whole": to_storable(item)}


def _derived(form: Form, chats: Sequence[Chat], hint: str | None) -> Item | None:
    """Return the item that the messages alone are read as."""
    return form.joined([item for chat in chats for item in form.items(chat, hint)])


def own_item(form: Form, group: Sequence[MessageRecord[Any]]) -> Item | None:
    """Return the item of this form that the rows hold, as it was written; ``None`` for rows of other programs."""
    own, first = _own(form, group[0]), group[0]
    if not own:
        return None
    item = from_storable(own["whole"]) if "whole" in own else _completed(form, group, own)
    if not isinstance(item, dict):
        return None
    is_edited = any(row.updated_at != row.created_at for row in group)
    if first.aside is None and is_edited and not _still_says(form, item, group):
        return None
    return item


def _completed(form: Form, group: Sequence[MessageRecord[Any]], own: Mapping[str, Any]) -> Any:
    hint = own.get("as")
    derived = _derived(form, [row.message for row in group], hint if isinstance(hint, str) else None)
    if derived is None:
        return None
    try:
        return changed(derived, from_storable(own.get("rest", {})))
    except ValueError:  # somebody has edited the message into another shape
        return None


def _still_says(form: Form, item: Item, group: Sequence[MessageRecord[Any]]) -> bool:
    said = [_storable(chat) for chat in form.say(item).chats]
    return is_same(said, [row.message for row in group])


def _own(form: Form, record: MessageRecord[Any]) -> Mapping[str, Any]:
    own = record.meta.get(form.key)
    return own if isinstance(own, dict) else {}


def _number_of_parts(form: Form, records: Sequence[MessageRecord[Any]], place: int) -> int:
    """Return how many rows from this place on are one item: those of a part, unless one was deleted."""
    number = _own(form, records[place]).get("parts", 1)
    if not isinstance(number, int) or number < 1:
        return 1
    parts = [_own(form, record).get("part", 0) for record in records[place : place + number]]
    return number if parts == list(range(number)) else 1


def _is_chat(chat: Chat) -> bool:
    try:
        check_shape(chat)
        if to_storable(chat) is not chat:
            encode_json(
                chat, "message"
            )  # takes what is escaped in meta only, and refuses a number of more than 64 bits
    except InvalidInputError:
        return False
    return True


def _storable(chat: Chat) -> Chat:
    """Return a message that JSONB can hold: U+FFFD stands for NUL and for lone surrogates."""
    found: Chat = chat if to_storable(chat) is chat else sanitize(chat)
    return found
