from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from benchmarks.contender import Contender, MissingContenderError, Operation, Samples, Thread
from benchmarks.contenders import load
from benchmarks.families import FAMILIES, Family
from benchmarks.furnishing import prepare_threads
from benchmarks.importing import write_conversations
from benchmarks.measure import Slice
from benchmarks.plan import Cell, Plan
from benchmarks.samples import SIZES, growing_states, make_samples
from benchmarks.summary import summarise
from benchmarks.workload import SMALL
from benchmarks.workloads import BACKENDS, WORKLOADS
from benchmarks.writes import Writes

CELL = Cell(WORKLOADS[0], SMALL, 1)


def slice_of(operations: int, seconds: float) -> Slice:
    latencies = [seconds / operations] * operations
    return Slice(seconds, client_cpu=0.5, server_cpu=0.25, writes=Writes(operations, 0), latencies=latencies)


def test_a_ratio_is_taken_within_a_round_and_its_median_is_shown():
    floor = [slice_of(100, 1.0), slice_of(200, 1.0), slice_of(400, 1.0)]
    ours = [slice_of(100, 1.0), slice_of(100, 1.0), slice_of(100, 1.0)]

    summary = summarise({(CELL, "floor"): floor, (CELL, "ours"): ours}, uncounted=())[CELL, "ours"]

    assert summary.ratio is not None
    assert (summary.ratio.least, summary.ratio.median, summary.ratio.greatest) == (0.25, 0.5, 1.0)


def test_the_fastest_form_of_the_floor_in_each_round_is_the_floor():
    results = {
        (CELL, "floor"): [slice_of(100, 1.0), slice_of(300, 1.0)],
        (CELL, "floor copy"): [slice_of(200, 1.0), slice_of(100, 1.0)],
        (CELL, "ours"): [slice_of(100, 1.0), slice_of(150, 1.0)],
    }

    summary = summarise(results, uncounted=())[CELL, "ours"]

    assert summary.ratio is not None
    assert summary.ratio.least == summary.ratio.greatest == 0.5


def test_a_workload_may_have_another_floor():
    cell = Cell(replace(WORKLOADS[0], floor="peer"), SMALL, 1)
    results = {(cell, name): [slice_of(rate, 1.0)] for name, rate in {"floor": 100, "peer": 50, "peers": 400}.items()}

    summary = summarise(results, uncounted=())[cell, "floor"]

    assert summary.ratio is not None
    assert summary.ratio.median == 2.0


def test_trips_and_processor_time_are_by_operation():
    summary = summarise({(CELL, "floor"): [slice_of(100, 1.0), slice_of(300, 1.0)]}, uncounted=())[CELL, "floor"]

    assert summary.postgresql_trips == 1.0
    assert summary.client_cpu == pytest.approx(2500)
    assert summary.server_cpu == pytest.approx(1250)


def test_trips_that_were_not_counted_are_not_shown_as_none_at_all():
    summary = summarise({(CELL, "libpq"): [slice_of(1, 1.0)]}, uncounted={"libpq"})[CELL, "libpq"]

    assert summary.postgresql_trips is None


@pytest.mark.parametrize(("named", "found"), [("w10", 9), ("w10-bind", 3), ("w10-bind-page", 1), ("w1", 1)])
def test_the_beginning_of_a_key_names_all_of_a_family(named: str, found: int):
    cells = Plan(only=(named,), sizes=(SMALL,), concurrencies=(1,)).cells()

    assert len(cells) == found


def test_each_workload_has_a_key_of_its_own_and_belongs_to_one_family():
    keys = [workload.key for family in FAMILIES for workload in family.workloads]

    assert keys == list(dict.fromkeys(keys))
    assert set(keys) == {workload.key for workload in WORKLOADS}


@pytest.mark.parametrize("family", FAMILIES)
def test_whom_others_are_compared_with_takes_part_whoever_is_named(family: Family):
    plan = Plan(workloads=family.workloads, contenders=("ours",))

    taken = set(filter(plan.takes, family.contenders))

    floors = {workload.floor for workload in family.workloads}
    ours = {"ours"} & family.contenders.keys()
    assert floors <= taken
    assert {name.split(" ")[0] for name in taken} == floors | ours


@pytest.mark.parametrize("size", SIZES)
def test_states_have_about_the_size_that_they_are_named_for(size: str):
    states = make_samples(1, [size]).states[size]

    assert all(0.9 < len(orjson.dumps(state)) / SIZES[size] < 1.2 for state in states)
    assert len({orjson.dumps(state) for state in states}) == len(states)


def test_the_same_seed_makes_the_same_samples():
    assert make_samples(7, [SMALL]) == make_samples(7, [SMALL])


def test_a_growing_state_gains_a_message_of_one_kilobyte_a_step():
    sizes = [len(orjson.dumps(state)) for state in growing_states(1, 20)]

    assert all(1000 < later - earlier < 1200 for earlier, later in pairwise(sizes))


def test_a_file_to_import_has_as_many_messages_as_were_asked_for(tmp_path: Path):
    file = tmp_path / "conversations.jsonl"

    write_conversations(file, 47, seed=1)

    conversations = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    assert sum(len(conversation["messages"]) for conversation in conversations) == 47
    assert len({conversation["id"] for conversation in conversations}) == len(conversations)


def test_what_is_not_overridden_is_not_offered():
    class Half(Contender):
        name = "half"

        async def read_state(self, thread: object) -> object:
            return thread

    cells = Plan(only=("w1", "w2a"), sizes=(SMALL,), concurrencies=(1,)).cells_of(Half())

    assert [cell.workload.key for cell in cells] == ["w2a"]


@pytest.mark.parametrize("is_right", [True, False])
async def test_a_contender_that_gives_back_something_else_is_left_out(is_right: bool):
    class Kept(Contender):
        name = "kept"

        async def load(self, thread: Thread) -> object:
            return thread

        async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:
            pass

        async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:  # noqa: ARG002
            return is_right and await operation(thread) is thread

    prepared = prepare_threads(Kept(), make_samples(1, [SMALL]), Plan(workloads=BACKENDS, only=("w12-contract-load",)))

    if is_right:
        assert len((await prepared).threads["own", SMALL]) == 32
    else:
        with pytest.raises(MissingContenderError, match="kept: w12-contract-load does not give back"):
            await prepared


PLACES = [(name, place) for family in FAMILIES for name, place in family.contenders.items()]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_contender_that_is_not_installed_is_named(name: str, place: str, monkeypatch: pytest.MonkeyPatch):
    def is_not_installed(module: str) -> object:
        raise ModuleNotFoundError(f"No module named {module!r}")

    monkeypatch.setattr("benchmarks.contenders.import_module", is_not_installed)

    with pytest.raises(MissingContenderError, match=f"{name}: not installed"):
        load(name, place)
