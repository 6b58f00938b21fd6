"""Counters, which are always on, and durations."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from benchmarks.contender import Addresses
from benchmarks.ours import Ours


class Counters(Ours):
    """Counters only."""

    name: ClassVar[str] = "counters"
    label: ClassVar[str] = "counters only (default)"

    @override
    async def open(self, addresses: Addresses) -> None:
        await super().open(addresses)
        self.title = self.label


class Twin(Counters):
    """The same once more: how far it is from the first is noise."""

    name: ClassVar[str] = "twin"
    label: ClassVar[str] = "the same again"


class Durations(Counters):
    """Durations too."""

    name: ClassVar[str] = "durations"
    label: ClassVar[str] = "durations"

    @override
    async def open(self, addresses: Addresses) -> None:
        await super().open(addresses)
        for store in (self.plain, self.cached):
            store.measure()
