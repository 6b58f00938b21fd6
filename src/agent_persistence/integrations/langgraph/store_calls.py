"""LangGraph's operations on a store, as calls on items: as few as there can be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

from langgraph.store.base import (
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)
from typing_extensions import override

from agent_persistence.errors import InvalidInputError
from agent_persistence.integrations.json_values import plain
from agent_persistence.integrations.langgraph.store_index import Index
from agent_persistence.records import ItemKey, ItemRecord, Namespace, NewItem

Results = Iterable[tuple[int, Result]]
OwnerOf = Callable[[Namespace], Any]

_ANY_LABEL: Final = "*"
_MINUTE: Final = 60.0
_NAMES_NO_OWNER: Final = "names no owner; give more labels, so that owner_of finds one"


class Items(NamedTuple):
    """The items of one owner.

    Attributes:
        methods: those of a unit of work, or one call at a time.
        owner: names the owner where the methods ask for it.
    """

    methods: Any
    owner: dict[str, Any]


class StoreCall(ABC):
    """A call on the items of one owner.

    Attributes:
        owner: the owner.
    """

    owner: Any

    @abstractmethod
    async def run(self, items: Items) -> Results:
        """Run it, and return the results of the operations by their places."""


class EmbeddedCall(StoreCall):
    """A call with texts that are embedded."""

    @abstractmethod
    async def embed(self, index: Index) -> None:
        """Embed the texts, before the call is run."""


@dataclass(slots=True)
class _Gets(StoreCall):
    owner: Any
    refresh: bool
    places: list[int] = field(default_factory=list)
    keys: list[ItemKey] = field(default_factory=list)

    @override
    async def run(self, items: Items) -> Results:
        found = await items.methods.get_many(self.keys, refresh=self.refresh, **items.owner)
        return zip(self.places, [None if one is None else Item(**_fields(one)) for one in found], strict=True)


@dataclass(slots=True)
class _Search(EmbeddedCall):
    owner: Any
    place: int
    op: SearchOp
    near: Sequence[float] | None = None

    @override
    async def embed(self, index: Index) -> None:
        if self.op.query:
            self.near = (await index.of_queries([self.op.query]))[self.op.query]

    @override
    async def run(self, items: Items) -> Results:
        op = self.op
        if op.limit == 0:
            return [(self.place, [])]
        found = await items.methods.search(
            op.namespace_prefix,
            filter=plain(op.filter, "filter", tuples=True),
            near=self.near,
            limit=op.limit,
            offset=op.offset,
            refresh=op.refresh_ttl,
            **items.owner,
        )
        return [(self.place, [SearchItem(**_fields(one), score=one.score) for one in found])]


@dataclass(slots=True)
class _Listing(StoreCall):
    owner: Any
    place: int
    op: ListNamespacesOp
    prefix: Namespace | None
    suffix: Namespace | None

    @override
    async def run(self, items: Items) -> Results:
        op = self.op
        if self.prefix is None or self.suffix is None or op.limit == 0:
            return [(self.place, [])]
        found = await items.methods.namespaces(
            self.prefix, suffix=self.suffix, max_depth=op.max_depth, limit=op.limit, offset=op.offset, **items.owner
        )
        return [(self.place, found)]


@dataclass(slots=True)
class _Puts(EmbeddedCall):
    owner: Any
    new: list[NewItem] = field(default_factory=list)
    fields: list[Literal[False] | list[str] | None] = field(default_factory=list)

    @override
    async def embed(self, index: Index) -> None:
        pairs = zip(self.new, self.fields, strict=True)
        texts = [[] if fields is False else index.texts(item.value, fields) for item, fields in pairs]
        vectors = await index.of_documents(chain.from_iterable(texts))
        self.new = [
            replace(item, vectors=[vectors[text] for text in each]) for item, each in zip(self.new, texts, strict=True)
        ]

    @override
    async def run(self, items: Items) -> Results:
        await items.methods.put_many(self.new, **items.owner)
        return ()


@dataclass(slots=True)
class _Deletes(StoreCall):
    owner: Any
    keys: list[ItemKey] = field(default_factory=list)

    @override
    async def run(self, items: Items) -> Results:
        await items.methods.delete_many(self.keys, **items.owner)
        return ()


def calls_of(ops: Sequence[Op], owner_of: OwnerOf) -> list[StoreCall]:
    """Return the calls that do what the operations say, reads first.

    Raises:
        InvalidNamespaceError: a namespace cannot be valid.
        InvalidInputError: an operation is of an unknown kind, or ``owner_of`` finds no owner.
    """
    gets: dict[tuple[Any, bool], _Gets] = {}
    others: list[StoreCall] = []
    written: dict[tuple[Any, ItemKey], PutOp] = {}
    for place, op in enumerate(ops):
        validate_op_namespace(op)
        if isinstance(op, GetOp):
            owner = _found(owner_of, op.namespace)
            group = gets.setdefault((owner, op.refresh_ttl), _Gets(owner, op.refresh_ttl))
            group.places.append(place)
            group.keys.append(ItemKey(tuple(op.namespace), op.key))
        elif isinstance(op, SearchOp):
            others.append(_Search(_found(owner_of, op.namespace_prefix), place, op))
        elif isinstance(op, ListNamespacesOp):
            others.append(_listing(place, op, owner_of))
        elif isinstance(op, PutOp):
            written[_found(owner_of, op.namespace), ItemKey(tuple(op.namespace), op.key)] = op
        else:
            raise InvalidInputError(f"ops[{place}]", f"is a {type(op).__name__}, which this version does not know")
    return [*gets.values(), *others, *_writes(written)]


def _writes(written: dict[tuple[Any, ItemKey], PutOp]) -> Iterable[StoreCall]:
    puts: dict[Any, _Puts] = {}
    deletes: dict[Any, _Deletes] = {}
    for (owner, key), op in written.items():
        if op.value is None:
            deletes.setdefault(owner, _Deletes(owner)).keys.append(key)
        else:
            ttl = None if op.ttl is None else op.ttl * _MINUTE
            # Texts of LangChain's messages are a class of their own.
            new = NewItem(namespace=key.namespace, key=op.key, value=plain(op.value, "value"), ttl=ttl)
            call = puts.setdefault(owner, _Puts(owner))
            call.new.append(new)
            call.fields.append(op.index)
    return [*puts.values(), *deletes.values()]


def _listing(place: int, op: ListNamespacesOp, owner_of: OwnerOf) -> _Listing:
    prefix, suffix = _merged(op, "prefix"), _merged(op, "suffix")
    labels = prefix or ()
    known = labels[: labels.index(_ANY_LABEL)] if _ANY_LABEL in labels else labels
    return _Listing(_found(owner_of, known), place, op, prefix, suffix)


def _merged(op: ListNamespacesOp, kind: Literal["prefix", "suffix"]) -> Namespace | None:
    """Return the one path that says what all conditions of a kind say together; ``None`` if nothing can match."""
    merged: list[str] = []  # of a suffix, the last label first
    for condition in op.match_conditions or ():
        if condition.match_type not in ("prefix", "suffix"):
            raise InvalidInputError("match_type", "must be prefix or suffix")
        if condition.match_type != kind:
            continue
        path = condition.path if kind == "prefix" else condition.path[::-1]
        merged += [_ANY_LABEL] * (len(path) - len(merged))
        for index, label in enumerate(path):
            if _ANY_LABEL not in (label, merged[index]) and label != merged[index]:
                return None
            merged[index] = merged[index] if label == _ANY_LABEL else label
    return tuple(merged if kind == "prefix" else merged[::-1])


def _found(owner_of: OwnerOf, namespace: Namespace) -> Any:
    try:
        owner = owner_of(tuple(namespace))
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidInputError("namespace", _NAMES_NO_OWNER) from error
    if owner is None:
        raise InvalidInputError("namespace", _NAMES_NO_OWNER)
    return owner


def _fields(record: ItemRecord) -> dict[str, Any]:
    return {
        "namespace": record.namespace,
        "key": record.key,
        "value": record.value,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }
