"""Measures which engine, precision and form of run is the fastest on this machine.

Laws: every candidate is a process of its own and passes the release's canaries first; they run in
turns, so that a drift of the machine's speed meets all of them; float32 in ONNX Runtime is kept
unless another one is faster by a tenth. It runs when it is asked for, never on its own.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from edgecl_deploy import engines
from edgecl_deploy.children import answer_of, talking
from edgecl_deploy.choice import Choice
from edgecl_deploy.engines.processor import cpu_name
from edgecl_deploy.errors import DeployError, EngineError, OptionError, shown

GAIN = 0.9  # of the time of what would run otherwise: a candidate must be below it
_TURN = 0.2  # seconds of one turn
_LEAST_TURNS = 3


@dataclass(frozen=True)
class Candidate:
    """An engine in a mode, and what was measured of it.

    Attributes:
        error: Why it cannot run here, None if it can.
        ms: Milliseconds of single images, by turn.
        start_ms: From nothing to the first answer.
        mb: Its resident memory at the most.
    """

    engine: str
    precision: str
    batch: int | None
    version: str = ""
    error: str | None = None
    ms: tuple[tuple[float, ...], ...] = ()
    start_ms: float = 0.0
    mb: float = 0.0

    @property
    def name(self) -> str:
        """A short name for people."""
        return f"{self.engine} {self.precision}{'' if self.batch is None else ', batch 1'}"

    @property
    def median_ms(self) -> float:
        """The median over all images."""
        return median(value for turn in self.ms for value in turn)

    def to_json(self) -> dict[str, Any]:
        """Return what was measured."""
        head = {"engine": self.engine, "precision": self.precision, "batch": self.batch}
        if self.error is not None:
            return {**head, "error": self.error}
        every = sorted(value for turn in self.ms for value in turn)
        return {
            **head,
            "version": self.version,
            "ms": self.median_ms,
            "least_ms": every[0],
            "images": len(every),
            "start_ms": self.start_ms,
            "mb": self.mb,
        }


@dataclass(frozen=True)
class Tuning:
    """What `tune` found: all candidates, and the one to use."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    base: Candidate  # what runs where nobody chose
    threads: int | None
    cpu: str = field(default_factory=cpu_name)

    def ratio(self, candidate: Candidate) -> float:
        """Return how many times faster a candidate is than the base: the median over turns."""
        pairs = zip(self.base.ms, candidate.ms, strict=True)
        return median(median(base) / median(own) for base, own in pairs)

    def choice(self, bundle: str) -> Choice:
        """Return what a store remembers.

        Args:
            bundle: The digest of bundle.json.
        """
        return Choice(
            engine=self.chosen.engine,
            precision=self.chosen.precision,
            batch=self.chosen.batch,
            threads=self.threads,
            ms=self.chosen.median_ms,
            version=self.chosen.version,
            cpu=self.cpu,
            bundle=bundle,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        rows = [
            {**each.to_json(), **({} if each.error else {"ratio": self.ratio(each)})}
            for each in self.candidates
        ]
        return {
            "cpu": self.cpu,
            "threads": self.threads,
            "chosen": self.chosen.to_json(),
            "candidates": rows,
        }


def candidates(names: tuple[str, ...] = ()) -> list[Candidate]:
    """List what could run here: the default first.

    Args:
        names: Of engines; empty for all that are installed.

    Raises:
        OptionError: There is no such engine.
    """
    for name in names:
        if name not in engines.names():
            known = ", ".join(engines.names())
            raise OptionError("engines must be registered ones", shown(name), f"Use {known}.")
    base = Candidate(engines.default_engine(), engines.FLOAT32, None)
    found = [base]
    for name in names or filter(engines.installed, engines.names()):
        try:
            able = engines.make_engine(name).capabilities()
        except DeployError as error:
            found.append(Candidate(name, engines.FLOAT32, None, error=str(error)))
            continue
        for precision in able.precisions:
            for batch in (None, 1) if able.compiles else (None,):
                found.append(Candidate(name, precision, batch))
    return list(dict.fromkeys(found))


def tune(
    path: str,
    release: str | None,
    asked: list[Candidate],
    *,
    threads: int | None = None,
    seconds: float = 20.0,
    tell: Callable[[str], None] = lambda _: None,
) -> Tuning:
    """Measure candidates on one image at a time.

    Args:
        path: A store, or a bundle.
        release: Of a bundle.
        asked: As `candidates` lists them; the first one is the base.
        threads: Of one run; None for all cores.
        seconds: How long to measure, all together.
        tell: Is called with a line about what happens.

    Raises:
        EngineError: The base cannot run here.
    """
    with ExitStack() as stack:
        running, done = [], []
        for each in asked:
            found = each if each.error else _begin(stack, path, release, each, threads)
            if isinstance(found, Candidate):
                done.append(found)
                tell(f"{found.name}: {found.error}")
            else:
                running.append(found)
                tell(f"{found.candidate.name}: started in {found.candidate.start_ms:.0f} ms")
        if not running or running[0].candidate.name != asked[0].name:
            raise EngineError(
                f"{asked[0].name} must run here, since others are compared with it",
                str(next((each.error for each in done), "nothing to measure")),
                "Mend that first: `edgecl-device doctor` names what is missing.",
            )
        end = time.monotonic() + seconds
        turns = 0
        while turns < _LEAST_TURNS or time.monotonic() < end:
            for contestant in running:
                contestant.run()
            turns += 1
    measured = [each.candidate for each in running]
    base = measured[0]
    fast = min(measured, key=lambda each: each.median_ms)
    chosen = fast if fast.median_ms < GAIN * base.median_ms else base
    return Tuning((*measured, *done), chosen, base, threads)


class _Running:
    """A candidate whose process waits for its turn."""

    def __init__(self, process: "subprocess.Popen[str]", candidate: Candidate) -> None:
        self._process = process
        self.candidate = candidate
        self._count = 1

    def run(self) -> None:
        """Let it run for about a turn.

        Raises:
            EngineError: It ended.
        """
        answer = answer_of(self._process, str(self._count))
        if "error" in answer:
            raise EngineError(
                f"{self.candidate.name} must go on running",
                answer["error"],
                "Leave it out with --engines.",
            )
        ms = tuple(answer["ms"])
        self.candidate = replace(self.candidate, ms=(*self.candidate.ms, ms), mb=answer["mb"])
        self._count = max(1, min(1000, round(1e3 * _TURN / max(median(ms), 1e-3))))


def _begin(
    stack: ExitStack, path: str, release: str | None, candidate: Candidate, threads: int | None
) -> "_Running | Candidate":
    """Start a candidate; return it with an error if it cannot run."""
    wanted = {
        "path": os.path.abspath(path),
        "release": None if release is None else os.path.abspath(release),
        "engine": candidate.engine,
        "precision": candidate.precision,
        "batch": candidate.batch,
        "threads": threads,
    }
    process = stack.enter_context(talking("edgecl_deploy.contestant", json.dumps(wanted)))
    answer = answer_of(process)
    if "error" in answer:
        return replace(candidate, error=answer["error"])
    return _Running(
        process, replace(candidate, version=answer["version"], start_ms=answer["start_ms"])
    )
