"""The protocol of the cache, in every order of the steps of two writers and two readers."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import pytest

from model import broken_protocols as broken
from model.checker import ANYTHING, Finding, explore
from model.protocols import NaiveProtocol, QuarantineProtocol
from model.world import Fault

pytestmark = pytest.mark.no_cover

Faults = tuple[Fault, ...]

BUT_FOR_A_MOMENT = frozenset({Finding.DIRTY, Finding.STUCK, Finding.WEDGED})
"""What must not be found where a value may be stale until a commit under way is published."""

HARMLESS: list[Faults] = [(), (Fault.ROLLBACK,), (Fault.CRASH,), (Fault.INVALIDATION,)]
SOON_OVER: list[Faults] = [(Fault.FLUSH,), (Fault.PAUSE,), (Fault.LOST,)]
UNTIL_THE_TTL: list[Faults] = [
    (Fault.FLUSH, Fault.CRASH),
    (Fault.PAUSE, Fault.CRASH),
    (Fault.FAILOVER,),
    (Fault.OUTSIDE_WRITE,),
    (Fault.OLD_SNAPSHOT,),
]

PROMISES: list[tuple[Faults, AbstractSet[Finding]]] = [
    ((), ANYTHING),
    ((Fault.FLUSH,), BUT_FOR_A_MOMENT),
    ((Fault.CRASH,), ANYTHING),
]
"""Each rule of the protocol is needed for one of these."""


def named(faults: Faults) -> str:
    return " and ".join(fault.name.lower() for fault in faults) or "no fault"


@pytest.mark.parametrize("faults", HARMLESS, ids=named)
def test_a_cached_value_is_the_committed_one(faults: Faults) -> None:
    outcome = explore(QuarantineProtocol(), faults)

    assert outcome.trace is None, outcome.trace
    assert outcome.worlds > 3_000


def test_faults_that_do_no_harm_do_none_together() -> None:
    outcome = explore(QuarantineProtocol(), (Fault.ROLLBACK, Fault.CRASH, Fault.INVALIDATION), readers=1)

    assert outcome.trace is None, outcome.trace


def test_a_third_writer_changes_nothing() -> None:
    outcome = explore(QuarantineProtocol(), (), writers=3)

    assert outcome.trace is None, outcome.trace
    assert outcome.worlds > 10_000


@pytest.mark.parametrize("faults", SOON_OVER, ids=named)
def test_a_stale_value_does_not_outlive_the_writes_under_way(faults: Faults) -> None:
    stale = explore(QuarantineProtocol(), faults, forbidden={Finding.STALE})
    stuck = explore(QuarantineProtocol(), faults, forbidden=BUT_FOR_A_MOMENT)

    assert stale.trace is not None
    assert stuck.trace is None, stuck.trace


@pytest.mark.parametrize("faults", UNTIL_THE_TTL, ids=named)
def test_some_faults_leave_a_value_that_only_its_time_to_live_ends(faults: Faults) -> None:
    outcome = explore(QuarantineProtocol(), faults, forbidden={Finding.STUCK}, writers=1, readers=1)

    assert outcome.trace is not None


def test_what_a_writer_could_never_tell_redis_ends_by_its_outbox() -> None:
    unreachable = (Fault.LOST, Fault.LOST)

    shipped = explore(QuarantineProtocol(), unreachable, forbidden=BUT_FOR_A_MOMENT, readers=1)
    without = explore(broken.NoOutbox(), unreachable, forbidden=BUT_FOR_A_MOMENT, readers=1)

    assert shipped.trace is None, shipped.trace
    assert without.trace is not None
    assert without.trace.finding is Finding.STUCK


def test_nothing_uncommitted_is_ever_cached_whatever_goes_wrong() -> None:
    faults = (Fault.FLUSH, Fault.CRASH, Fault.PAUSE)

    outcome = explore(QuarantineProtocol(), faults, forbidden={Finding.DIRTY, Finding.WEDGED}, readers=1)

    assert outcome.trace is None, outcome.trace


@pytest.mark.parametrize(
    "finding", [Finding.STALE, Finding.STALE_AFTER_ACKNOWLEDGEMENT, Finding.STUCK], ids=lambda finding: finding.name
)
def test_deleting_the_key_after_the_commit_is_not_enough(finding: Finding) -> None:
    outcome = explore(NaiveProtocol(), (), forbidden={finding})

    assert outcome.trace is not None


@pytest.mark.parametrize(
    "protocol",
    [
        broken.PublishChecksNoToken,
        broken.PublishLeavesWhatTookItsPlace,
        broken.PublishLeavesLeases,
        broken.FillNeedsNoLease,
        broken.FillOverridesAQuarantine,
        broken.BeginLeavesLeases,
        broken.BeginOnlyDeletes,
        broken.BeginComesBeforeTheRowLock,
        broken.QuarantinesAreASet,
        broken.QuarantineNeverEnds,
    ],
)
def test_without_any_one_of_its_rules_the_protocol_breaks_a_promise(protocol: type[QuarantineProtocol]) -> None:
    traces = (explore(protocol(), faults, forbidden=forbidden).trace for faults, forbidden in PROMISES)

    assert any(traces)


def test_a_set_of_quarantines_is_not_enough_once_a_writer_crashes() -> None:
    """A late writer would publish over a newer one that crashed and whose own token has run out."""
    outcome = explore(broken.QuarantinesAreASet(), (Fault.CRASH,), forbidden={Finding.STUCK})

    assert outcome.trace is not None


def test_a_trace_tells_the_shortest_way_there() -> None:
    outcome = explore(NaiveProtocol(), (), forbidden={Finding.STALE_AFTER_ACKNOWLEDGEMENT}, writers=1, readers=1)

    assert str(outcome.trace).splitlines() == [
        "W0 locks the row                                 row v1  key -",
        "R0 reads the key and finds nothing               row v1  key -",
        "R0 reads the row v1                              row v1  key -",
        "W0 commits v2                                    row v2  key -",
        "W0 publishes                                     row v2  key -",
        "W0 returns                                       row v2  key -",
        "R0 fills the key with v1                         row v2  key V1",
        "-> the key holds less than somebody has already been told of",
    ]
