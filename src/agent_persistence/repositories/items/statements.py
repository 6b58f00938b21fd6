"""The statements on items. Expired ones are as if deleted, from the moment at which they expire.

The time is that of the statement, not of its transaction, which may have begun before an item expired.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    DateTime,
    Double,
    Interval,
    Table,
    Text,
    bindparam,
    case,
    delete,
    exists,
    false,
    func,
    literal_column,
    null,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import TypeEngine

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.models import ExactJSON, Models
from agent_persistence.repositories.items.filters import Shape, matches
from agent_persistence.repositories.locks import owners, unnest
from agent_persistence.repositories.rows import readable
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS
from agent_persistence.sessions.scope import Query

_NOW: Final = func.statement_timestamp(type_=DateTime(timezone=True))
_SECOND: Final = literal_column("interval '1 second'", Interval())
# Of its time to live an item has less than this left when a read grants it again: most reads write nothing.
_LEFT_AT_REFRESH: Final = literal_column("interval '0.9 seconds'", Interval())

_NEW: Final[dict[str, TypeEngine[Any]]] = {
    "namespace": Text(),
    "key": Text(),
    "value": ExactJSON(),
    "ttl_seconds": Double(),
}
"""The parameters of a new item, beside its owner."""

_AFTER: Final = "\x01"
"""Appended to a text it makes the next greater one: a text holds no NUL."""


@lru_cache(MODELS_AT_ONCE)
def read_item(models: Models[Any, Any]) -> CompiledStatement:
    """Read the item ``key`` of ``namespace``."""
    items = _items(models)
    at = (items.c.namespace == bindparam("namespace"), items.c.key == bindparam("key"))
    return CompiledStatement(select(*_columns(items)).where(_is_owned(items), *at, is_live(items)))


@lru_cache(MODELS_AT_ONCE)
def read_items(models: Models[Any, Any]) -> CompiledStatement:
    """Read the items of ``namespaces`` and ``keys``, in no order."""
    items, wanted = _items(models), _wanted()
    joined = items.join(wanted, _is_at(items, wanted))
    return CompiledStatement(select(*_columns(items)).select_from(joined).where(_is_owned(items), is_live(items)))


@lru_cache(8 * MODELS_AT_ONCE)
def search_items(models: Models[Any, Any], *, below: bool, shape: Shape = ()) -> CompiledStatement:
    """Read a page of items, those that were put last first; see ``found_items``.

    Args:
        shape: of the filter that they match.
    """
    return CompiledStatement(found_items(models, matches(_items(models).c.value, shape), below=below))


def found_items(models: Models[Any, Any], condition: ColumnElement[bool], *, below: bool) -> Query:
    """Select ``limit`` items after the first ``offset``, those that were put last first.

    Args:
        condition: holds for the items to find.
        below: only those of ``namespace`` and of the range from ``low`` to ``high``.
    """
    items = _items(models)
    return (
        select(*_columns(items))
        .where(_is_owned(items), is_below(items) if below else true(), is_live(items), condition)
        .order_by(*last_put_first(items))
        .limit(bindparam("limit", type_=BigInteger))
        .offset(bindparam("offset", type_=BigInteger))
    )


@lru_cache(MODELS_AT_ONCE)
def walk_namespaces(models: Models[Any, Any], *, below: bool) -> CompiledStatement:
    """List the namespaces with items, without reading each item: from each to the next in the index.

    Args:
        below: only ``namespace`` and the range from ``low`` to ``high``.
    """
    items = _items(models)
    within = (items.c.namespace < bindparam("high"),) if below else ()

    def first(start: ColumnElement[Any]) -> Any:
        found = select(items.c.namespace).where(_is_owned(items), items.c.namespace >= start, *within)
        return found.order_by(items.c.namespace).limit(1).correlate_except(items).scalar_subquery()

    walk = select(first(bindparam("low", type_=Text()) if below else literal_column("''")).label("namespace"))
    steps = walk.cte("steps", recursive=True)
    following = first(steps.c.namespace + literal_column(f"'{_AFTER}'", Text()))
    steps = steps.union_all(select(following).where(steps.c.namespace.is_not(None)))
    found = select(steps.c.namespace).where(steps.c.namespace.is_not(None), _has_items(items, steps.c.namespace))
    if not below:
        return CompiledStatement(found)
    itself = bindparam("namespace", type_=Text())
    return CompiledStatement(union_all(select(itself.label("namespace")).where(_has_items(items, itself)), found))


@lru_cache(MODELS_AT_ONCE)
def put_items(models: Models[Any, Any]) -> CompiledStatement:
    """Put items of one owner, given as arrays: add each, or replace its value."""
    items = _items(models)
    arrays: dict[str, Any] = {name: _array(name, kind) for name, kind in _NEW.items()}
    return _put(items, unnest("new", **arrays), _owner(items))


@lru_cache(MODELS_AT_ONCE)
def put_unlocked_items(models: Models[Any, Any], *, one: bool) -> CompiledStatement:
    """Put items of several ``owners``, given as arrays, except those that another transaction has locked.

    Args:
        one: it is one item, given as plain values. Arrays of one cost the server twice as much.
    """
    items = _items(models)
    given: dict[str, Any] = {"owner": owners(models, one=one)}
    given |= {name: bindparam(name, type_=kind if one else ARRAY(kind)) for name, kind in _NEW.items()}
    if one:
        new: Any = select(*(value.label(name) for name, value in given.items())).subquery("new")
    else:
        new = unnest("new", **given)
    place = (new.c.owner, new.c.namespace, new.c.key)
    same = [column == given for column, given in zip(items.primary_key, place, strict=True)]
    locked = select(*items.primary_key).where(*same).with_for_update(of=items, key_share=True, skip_locked=True)
    is_there = exists(select(null()).select_from(items).where(*same).correlate_except(items))
    return _put(items, new, new.c.owner, ~is_there | tuple_(*place).in_(select(locked.cte("locked"))))


def _put(items: Table, new: Any, owner: ColumnElement[Any], *conditions: ColumnElement[bool]) -> CompiledStatement:
    values = select(
        owner.label("user_id"),
        *(new.c[name] for name in _NEW),
        _NOW.label("created_at"),
        _NOW.label("updated_at"),
        (_NOW + new.c.ttl_seconds * _SECOND).label("expires_at"),
    )
    put = insert(items).from_select(
        ["user_id", *_NEW, "created_at", "updated_at", "expires_at"], values.where(*conditions), include_defaults=False
    )
    changed: dict[str, Any] = {
        name: put.excluded[name] for name in ("value", "ttl_seconds", "updated_at", "expires_at")
    }
    # An expired row that nobody has swept yet is no earlier version of the item.
    changed["created_at"] = case((is_live(items), items.c.created_at), else_=put.excluded.created_at)
    return CompiledStatement(
        put.on_conflict_do_update(index_elements=list(items.primary_key), set_=changed).returning(
            *items.primary_key, items.c.updated_at, *TRANSACTION_MARKS
        )
    )


@lru_cache(MODELS_AT_ONCE)
def refresh_items(models: Models[Any, Any]) -> CompiledStatement:
    """Grant the items of ``namespaces`` and ``keys`` their time to live again; none that somebody else is changing."""
    items = _items(models)
    locked = _locked(items, is_live(items), items.c.ttl_seconds.is_not(None), skip_locked=True)
    return CompiledStatement(
        update(items)
        .where(_is_owned(items), _is_at(items, locked))
        .values(expires_at=_NOW + items.c.ttl_seconds * _SECOND)
        .returning(*items.primary_key, items.c.expires_at, *TRANSACTION_MARKS)
    )


@lru_cache(MODELS_AT_ONCE)
def delete_items(models: Models[Any, Any]) -> CompiledStatement:
    """Delete the items of ``namespaces`` and ``keys``; returns for each whether it was live."""
    items = _items(models)
    locked = _locked(items)
    return CompiledStatement(
        delete(items)
        .where(_is_owned(items), _is_at(items, locked))
        .returning(*items.primary_key, is_live(items).label("was_live"), *TRANSACTION_MARKS)
    )


@lru_cache(MODELS_AT_ONCE)
def clear_items(models: Models[Any, Any], *, below: bool) -> CompiledStatement:
    """Delete all items; with ``below`` only those of ``namespace`` and of the range from ``low`` to ``high``."""
    items = _items(models)
    return CompiledStatement(
        delete(items)
        .where(_is_owned(items), is_below(items) if below else true())
        .returning(*items.primary_key, is_live(items).label("was_live"), *TRANSACTION_MARKS)
    )


def last_put_first(items: Table) -> tuple[ColumnElement[Any], ...]:
    """Return the order of pages. The key makes it total, so that no page has an item of another."""
    return items.c.updated_at.desc(), items.c.namespace, items.c.key


def is_live(items: Table) -> ColumnElement[bool]:
    """Return the condition that an item has not expired."""
    return items.c.expires_at.is_(None) | (items.c.expires_at > _NOW)


def has_expired(items: Table) -> ColumnElement[bool]:
    """Return the condition that an item has expired, which the index of these times serves."""
    return items.c.expires_at <= _NOW


def is_below(items: Table) -> ColumnElement[bool]:
    """Return the condition that a row is of ``namespace``, or of the range from ``low`` to ``high``."""
    namespace = items.c.namespace
    return (namespace == bindparam("namespace")) | ((namespace >= bindparam("low")) & (namespace < bindparam("high")))


def _items(models: Models[Any, Any]) -> Table:
    return models.side_tables.items


def _columns(items: Table) -> list[ColumnElement[Any]]:
    left = items.c.ttl_seconds * _LEFT_AT_REFRESH
    is_due = func.coalesce(items.c.expires_at < _NOW + left, false()).label("is_due")
    times: list[Column[Any]] = [items.c.created_at, items.c.updated_at, items.c.expires_at]
    return [items.c.namespace, items.c.key, items.c.value, *map(readable, times), is_due]


def _owner(items: Table) -> Any:
    return bindparam("owner", type_=items.c.user_id.type)


def _is_owned(items: Table) -> ColumnElement[bool]:
    owned: ColumnElement[bool] = items.c.user_id == _owner(items)
    return owned


def _has_items(items: Table, namespace: ColumnElement[Any]) -> ColumnElement[bool]:
    found = select(null()).where(_is_owned(items), items.c.namespace == namespace, is_live(items))
    return exists(found.correlate_except(items))


def _array(name: str, kind: TypeEngine[Any]) -> BindParameter[Any]:
    return bindparam(name, type_=ARRAY(kind))


def _wanted() -> Any:
    return unnest("wanted", namespace=_array("namespaces", Text()), key=_array("keys", Text()))


def _is_at(items: Table, place: Any) -> ColumnElement[bool]:
    same: ColumnElement[bool] = (items.c.namespace == place.c.namespace) & (items.c.key == place.c.key)
    return same


def _locked(items: Table, *conditions: ColumnElement[bool], skip_locked: bool = False) -> Any:
    """Return a CTE that locks the wanted items, in one order for all callers: no two wait for each other."""
    wanted = _wanted()
    return (
        select(items.c.namespace, items.c.key)
        .select_from(items.join(wanted, _is_at(items, wanted)))
        .where(_is_owned(items), *conditions)
        .order_by(items.c.namespace, items.c.key)
        .with_for_update(of=items, skip_locked=skip_locked)
        .cte("locked")
    )
