"""The shipped protocol with one rule taken away, each in turn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from model.protocols import ABSENT, LEASE, NOBODY, QUARANTINE, VALUE, Action, Key, QuarantineProtocol


class PublishChecksNoToken(QuarantineProtocol):
    def publish(self, _key: Key, _writer: int, version: int) -> Key:
        return Key(VALUE, version)


class PublishLeavesWhatTookItsPlace(QuarantineProtocol):
    def publish(self, key: Key, writer: int, version: int) -> Key:
        return Key(VALUE, version) if key == Key(QUARANTINE, writer) else key


class PublishLeavesLeases(QuarantineProtocol):
    def publish(self, key: Key, writer: int, version: int) -> Key:
        return key if key.holds == LEASE else super().publish(key, writer, version)


class FillNeedsNoLease(QuarantineProtocol):
    def fill(self, key: Key, _reader: int, version: int) -> Key:
        return key if key.holds in {QUARANTINE, VALUE} else Key(VALUE, version)


class FillOverridesAQuarantine(QuarantineProtocol):
    def fill(self, key: Key, reader: int, version: int) -> Key:
        return Key(VALUE, version) if key.holds == QUARANTINE else super().fill(key, reader, version)


class BeginLeavesLeases(QuarantineProtocol):
    def begin(self, key: Key, writer: int) -> Key:
        return key if key.holds == LEASE else super().begin(key, writer)


class BeginOnlyDeletes(QuarantineProtocol):
    def begin(self, _key: Key, _writer: int) -> Key:
        return ABSENT


class BeginComesBeforeTheRowLock(QuarantineProtocol):
    flow = (Action.BEGIN, Action.LOCK, Action.COMMIT, Action.PUBLISH, Action.RETURN)


class NoOutbox(QuarantineProtocol):
    outbox = False


class QuarantineNeverEnds(QuarantineProtocol):
    def lapses(self, _key: Key, _guarding: AbstractSet[int]) -> Iterator[tuple[bool, Key]]:
        return iter(())


class Intents(NamedTuple):
    """Who is about to write, and the newest version that one of them has published."""

    writers: frozenset[int] = frozenset()
    newest: float = 0


class QuarantinesAreASet(QuarantineProtocol):
    """A writer adds its token to those of others, and whoever is the last to take one away publishes."""

    def begin(self, key: Key, writer: int) -> Key:
        intents = _intents(key)
        return Key(QUARANTINE, intents._replace(writers=intents.writers | {writer}))

    def publish(self, key: Key, writer: int, version: int) -> Key:
        if writer not in _intents(key).writers:
            return super().publish(key, writer, version)
        newest_is_mine = version > _intents(key).newest
        rest = _without(key, writer, newest=version)
        return Key(VALUE, version) if rest == ABSENT and newest_is_mine else rest

    def publish_nothing(self, key: Key, writer: int) -> Key:
        return _without(key, writer, newest=math.inf) if key.holds == QUARANTINE else ABSENT

    def abort(self, key: Key, writer: int) -> Key:
        return _without(key, writer)

    def invalidate(self, key: Key) -> Key:
        return self.begin(key, NOBODY)

    def lapses(self, key: Key, guarding: AbstractSet[int]) -> Iterator[tuple[bool, Key]]:
        for writer in _intents(key).writers:
            yield writer in guarding, _without(key, writer)


def _intents(key: Key) -> Intents:
    return key.of if key.holds == QUARANTINE else Intents()


def _without(key: Key, writer: int, newest: float = 0) -> Key:
    """The key once a token is taken away; unchanged where it was not there."""
    intents = _intents(key)
    if writer not in intents.writers:
        return key
    rest = Intents(intents.writers - {writer}, max(intents.newest, newest))
    return Key(QUARANTINE, rest) if rest.writers else ABSENT
