"""What a run does."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contender import Contender
from benchmarks.samples import SIZES
from benchmarks.workload import SMALL, USUAL_TASKS, Workload
from benchmarks.workloads import WORKLOADS

_OTHER_SIZES_MOST = 32


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload at one size of states and one concurrency."""

    workload: Workload
    size: str
    concurrency: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A run.

    Attributes:
        workloads: those to choose from.
        only: keys of workloads, or of families of them; empty means all.
        contenders: names; empty means all. Whom they are compared with always takes part.
        concurrencies: numbers of tasks; empty means those of each workload.
        rounds: how often each cell is measured.
        seconds: how long a slice is.
        threads: how many threads the table has for each contender.
        growth_steps: of w6.
        import_messages: of w7.
        stream_megabytes: of w8.
        uvloop: whether to measure again under uvloop, where it is installed.
    """

    workloads: tuple[Workload, ...] = WORKLOADS
    quick: bool = False
    only: tuple[str, ...] = ()
    contenders: tuple[str, ...] = ()
    concurrencies: tuple[int, ...] = ()
    seed: int = 1
    rounds: int = 5
    seconds: float = 0.5
    threads: int = 1000
    sizes: tuple[str, ...] = tuple(SIZES)
    growth_steps: int = 500
    import_messages: int = 1_000_000
    stream_megabytes: int = 100
    uvloop: bool = True

    def wants(self, key: str) -> bool:
        """Tell whether a workload is to be measured: ``w10`` names all whose keys begin with ``w10-``."""
        return not self.only or any(key == named or key.startswith(f"{named}-") for named in self.only)

    def takes(self, contender: str) -> bool:
        """Tell whether a contender is to take part."""
        floors = {workload.floor for workload in self.workloads}
        return not self.contenders or bool({contender, contender.partition(" ")[0]} & {*self.contenders, *floors})

    def cells(self) -> list[Cell]:
        """Return all that is measured in slices."""
        return [
            Cell(workload, size, concurrency)
            for workload in self.workloads
            if self.wants(workload.key)
            for size in (self.sizes if workload.by_size else (SMALL,))
            for concurrency in self.concurrencies or workload.tasks
            if concurrency <= min(workload.tasks[-1], self.threads if size == SMALL else _OTHER_SIZES_MOST)
            and not (self.quick and concurrency not in workload.quick_tasks)
        ]

    def cells_of(self, contender: Contender) -> list[Cell]:
        """Return the cells that a contender takes part in."""
        return [
            cell
            for cell in self.cells()
            if contender.takes_part(cell.workload.method)
            and cell.concurrency <= contender.most_tasks
            and not (contender.own_database and contender.name != cell.workload.floor and self._is_rare(cell))
        ]

    def _is_rare(self, cell: Cell) -> bool:
        """Tell whether other stores are not asked, to save time: quick runs and larger states have one concurrency."""
        return (self.quick or cell.size != SMALL) and cell.concurrency != min(USUAL_TASKS, cell.workload.tasks[-1])

    def counts(self, contender: Contender) -> dict[str, int]:
        """Return how many threads with states of each size a contender needs, half of them behind a cache."""
        most = max((cell.concurrency for cell in self.cells_of(contender)), default=1)
        small = self.threads if contender.is_main() else 2 * most
        return {size: small if size == SMALL else 2 * min(most, _OTHER_SIZES_MOST) for size in self.sizes}
