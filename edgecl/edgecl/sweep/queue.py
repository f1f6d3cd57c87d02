"""Runs the cells of a sweep, some at a time; what is there goes on, what fails stops nothing."""

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgecl.learning.overview import RunFacts, last_accuracy, run_facts
from edgecl.learning.runs import HEADER
from edgecl.sweep.plan import Cell, SweepError
from edgecl_deploy.children import python_module
from edgecl_deploy.manifest.whole import write_whole

State = Literal["waiting", "running", "done", "failed"]
PAUSE = 0.2  # seconds between two looks at the processes
GRACE = 10.0  # seconds that a process has to end after it was asked to
LINES = 4096  # bytes of a log's end in which the reason of a failure is


@dataclass(frozen=True)
class Status:
    """How far a cell is.

    Attributes:
        tasks: finished.
        of_tasks: of its stream; 0 while that is not known.
        last: accuracy after the last finished task; None where there is none.
        seconds: it has run in this call.
        why: the last line of its log, of one that failed.
    """

    cell: Cell
    state: State
    tasks: int = 0
    of_tasks: int = 0
    last: float | None = None
    seconds: float = 0.0
    why: str = ""


@dataclass(eq=False)
class _Running:
    process: "subprocess.Popen[bytes]"
    place: int
    since: float = field(default_factory=time.monotonic)


class Sweep:
    """A folder of runs, one per cell: `FOLDER/NAME`, with its output in `FOLDER/logs/NAME.log`.

    Args:
        gpus: one process each; () for processes without a choice of GPU.
        jobs: processes at a time where there are no `gpus`.
        options: of every training, after its own.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        folder: Path,
        *,
        gpus: Sequence[str] = (),
        jobs: int = 1,
        options: Sequence[str] = (),
    ):
        self.cells = tuple(cells)
        self._folder = folder
        self._gpus = tuple(gpus)
        self._options = tuple(options)
        self._places = deque(range(len(gpus) or jobs))
        self._running: dict[str, _Running] = {}
        self._told: dict[str, Status] = {}  # of cells that do not run: nothing changes them
        self._failed: dict[str, str] = {}
        self._seconds: dict[str, float] = {}

    def run_of(self, cell: Cell) -> Path:
        """Return the folder of a cell's run."""
        return self._folder / cell.name

    def log_of(self, cell: Cell) -> Path:
        """Return the file of what a cell's process prints."""
        return self._folder / "logs" / f"{cell.name}.log"

    def status(self) -> list[Status]:
        """Return how far every cell is."""
        return [self._status(cell) for cell in self.cells]

    def run(self, look: Callable[[list[Status]], None]) -> list[Status]:
        """Run all cells that are not done; an interruption ends the processes and is passed on.

        A cell that was run or begun with other options is a SweepError.

        Args:
            look: is given the states several times a second.
        """
        (self._folder / "logs").mkdir(parents=True, exist_ok=True)
        for cell in self.cells:
            self._check(cell)
        waiting = deque(cell for cell in self.cells if not self._is_done(cell))
        try:
            while waiting or self._running:
                while waiting and self._places:
                    self._start(waiting.popleft())
                time.sleep(PAUSE)
                self._collect()
                look(self.status())
        finally:
            self._end()
        return self.status()

    def _check(self, cell: Cell) -> None:
        """Note how a cell is trained.

        Raises:
            SweepError: if it was trained otherwise before.
        """
        noted, words = self._folder / "logs" / f"{cell.name}.json", list(cell.words)
        if (self.run_of(cell) / HEADER).is_file() and noted.is_file():
            before = json.loads(noted.read_text(encoding="utf-8"))
            if before != words:
                raise SweepError(
                    f"A sweep goes on with the options that it began with, but {cell.name} was "
                    f"`edgecl train {' '.join(before)}` and is `edgecl train {' '.join(words)}` "
                    "now. Name it otherwise, remove its folder, or give another --out."
                )
        write_whole(noted, json.dumps(words).encode(), durable=False)

    def _is_done(self, cell: Cell) -> bool:
        facts = self._facts(cell)
        finished = facts is not None and 0 < facts.stream_tasks <= facts.tasks
        return finished and (self.run_of(cell) / "metrics.json").is_file()

    def _facts(self, cell: Cell) -> RunFacts | None:
        run = self.run_of(cell)
        return run_facts(run) if (run / HEADER).is_file() else None

    def _status(self, cell: Cell) -> Status:
        if cell.name in self._running:
            return self._looked(cell)
        if cell.name not in self._told:
            self._told[cell.name] = self._looked(cell)
        return self._told[cell.name]

    def _looked(self, cell: Cell) -> Status:
        facts = self._facts(cell) or RunFacts("")
        running = self._running.get(cell.name)
        seconds = self._seconds.get(cell.name, 0.0)
        state: State = "waiting"
        if running is not None:
            state, seconds = "running", time.monotonic() - running.since
        elif cell.name in self._failed:
            state = "failed"
        elif self._is_done(cell):
            state = "done"
        return Status(
            cell=cell,
            state=state,
            tasks=facts.tasks,
            of_tasks=facts.stream_tasks,
            last=last_accuracy(self.run_of(cell)),
            seconds=seconds,
            why=self._failed.get(cell.name, ""),
        )

    def _start(self, cell: Cell) -> None:
        run, place = self.run_of(cell), self._places.popleft()
        begun = (run / HEADER).is_file()
        words = ["--resume", str(run)] if begun else [*cell.words, "--out", str(run)]
        words += cell.of_call
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place]
        command = python_module("edgecl.cli", "train", *words, *self._options, "--quiet")
        with self.log_of(cell).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  our own interpreter, our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us, and we end it
            )
        self._running[cell.name] = _Running(process, place)

    def _collect(self) -> None:
        for cell in self.cells:
            running = self._running.get(cell.name)
            if running is None or (status := running.process.poll()) is None:
                continue
            self._seconds[cell.name] = time.monotonic() - running.since
            self._places.append(running.place)
            del self._running[cell.name]
            self._told.pop(cell.name, None)
            if status or not self._is_done(cell):
                self._failed[cell.name] = self._reason(cell, status)

    def _reason(self, cell: Cell, status: int) -> str:
        data = self.log_of(cell).read_bytes()[-LINES:]
        lines = data.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines and status else f"it ended with status {status}"

    def _end(self) -> None:
        """End what runs: politely, then by force; finished tasks are kept by the runs."""
        processes = [running.process for running in self._running.values()]
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + GRACE
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in self._running:
            self._told.pop(name, None)
        self._running.clear()
