"""Releases come and go under four reading threads: nothing fails, nothing is mixed, nothing leaks.

The updates run in another process, as on a device: it fetches, switches, commits and collects the
garbage, while the process under test follows. A reader's call is timed, its check is not.
"""

import gc
import os
import sys
import threading
import time
from array import array
from dataclasses import dataclass, field

import numpy as np
import psutil
import pytest
from tests.deploy.support.sources import make_release, make_store
from tests.deploy.support.updaters import one_by_one, start
from tests.deploy.support.world import COLOURS, picture

from edgecl_deploy import Classifier, follow

READERS = 4
FEW, MANY = 4, 40  # images of a call; many are more than one batch
EVERY = 32  # calls: one of them has many images
TICK = 1e-5  # seconds: how finely calls are timed
LONGEST = 100_000  # ticks


@dataclass
class Phase:
    """What the readers saw while something went on."""

    calls: int = 0
    images: int = 0
    failed: list[object] = field(default_factory=list)
    mixed: list[object] = field(default_factory=list)
    releases: set[int] = field(default_factory=set)
    ticks: np.ndarray = field(default_factory=lambda: np.zeros(LONGEST, np.int64))

    def add(self, other: "Phase") -> None:
        self.calls += other.calls
        self.images += other.images
        self.failed += other.failed
        self.mixed += other.mixed
        self.releases |= other.releases
        self.ticks += other.ticks

    def ms(self, share: float) -> float:
        """The time that this share of the calls did not take, in milliseconds."""
        reached = np.searchsorted(np.cumsum(self.ticks), share * self.ticks.sum())
        return 1000 * TICK * float(reached + 1)


class Readers:
    """Four threads that ask and check every answer against its release.

    Without a pause they wait for each other most of the time: Python runs one of them at once.
    """

    def __init__(
        self, classifier: Classifier, scores: dict[int, tuple[float, float]], pause: float
    ) -> None:
        self.classifier = classifier
        self.pause = pause  # seconds between two calls of a thread
        self.scores = scores  # release -> score of a red picture, of a green one

    def during(self, work) -> Phase:
        done, parts = threading.Event(), [Phase() for _ in range(READERS)]
        threads = [threading.Thread(target=self._read, args=(part, done)) for part in parts]
        for thread in threads:
            thread.start()
        try:
            work()
        finally:
            done.set()
            for thread in threads:
                thread.join()
        total = Phase()
        for part in parts:
            total.add(part)
        return total

    def _read(self, phase: Phase, done: threading.Event) -> None:
        names = tuple(COLOURS)[:2]
        pictures = [picture(name) for name in names]
        ticks = array("q", bytes(8 * LONGEST))
        while not done.is_set():
            count = MANY if phase.calls % EVERY == EVERY - 1 else FEW
            images = pictures * (count // 2)
            begin = time.perf_counter()
            try:
                answers = self.classifier.predict(images)
            except Exception as error:  # whatever it is, a request failed
                phase.failed.append(error)
                continue
            taken = time.perf_counter() - begin
            if count == FEW:
                ticks[min(int(taken / TICK), LONGEST - 1)] += 1
            number = answers[0].release
            phase.releases.add(number)
            right = self.scores[number]
            for i, answer in enumerate(answers):
                if answer.error is not None:
                    phase.failed.append(answer)
                elif (
                    answer.release != number
                    or answer.label != names[i % 2]
                    or abs(answer.score - right[i % 2]) > 1e-5
                ):
                    phase.mixed.append(answer)
            phase.calls += 1
            phase.images += count
            if self.pause:
                time.sleep(self.pause)
        phase.ticks += np.frombuffer(ticks, np.int64)


def rss() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


@dataclass
class Figures:
    """What was measured."""

    swaps: int
    quiet: Phase
    swapping: Phase
    memory: float  # at the end, relative to before
    collected: int  # generations
    seconds: float

    def __str__(self) -> str:
        quiet, swapping = self.quiet, self.swapping
        return (
            f"{self.swaps} swaps in {self.seconds:.0f} s on {len(os.sched_getaffinity(0))} cores, "
            f"{swapping.calls} calls, {swapping.images} images, {len(swapping.failed)} failed, "
            f"{len(swapping.mixed)} mixed, {self.collected} generations collected; "
            f"p50 {quiet.ms(0.5):.2f} -> {swapping.ms(0.5):.2f} ms, "
            f"p99 {quiet.ms(0.99):.2f} -> {swapping.ms(0.99):.2f} ms "
            f"({swapping.ms(0.99) / quiet.ms(0.99):.2f} x), memory {self.memory:.3f} x"
        )


def measure(world, folder, swaps: int, quiet_seconds: float, pause: float = 0.0) -> Figures:
    releases = [make_release(world, number) for number in range(1, swaps + 2)]
    store = make_store(world, folder / "store", releases[0])
    green = {
        number: float(np.float16(1 - number / 1024)) for number in range(1, swaps + 2)
    }  # what `make_release` changes
    scores = {number: (1.0, value) for number, value in green.items()}
    channel = [(folder / "channel", made) for made in releases[1:]]
    with (
        Classifier.open(store.path, threads=1) as classifier,
        start(one_by_one, store.path, channel) as child,
    ):
        assert child.pipe.recv() == "ready"
        readers = Readers(classifier, scores, pause)

        def swap(first: int, last: int) -> None:
            for number in range(first, last):
                child.pipe.send("go")
                assert child.pipe.recv() == ("updated", number)
                end = time.monotonic() + 10
                while classifier.release != number:
                    assert time.monotonic() < end, f"release {number} was not taken"
                    time.sleep(0.005)

        warm = min(swaps // 10, 20)
        readers.during(lambda: swap(2, 2 + warm))  # everything was loaded once
        before = readers.during(lambda: time.sleep(quiet_seconds))
        memory = rss()
        begin = time.monotonic()
        swapping = readers.during(lambda: swap(2 + warm, 2 + swaps))
        seconds = time.monotonic() - begin
        grown = rss() / memory
        before.add(readers.during(lambda: time.sleep(quiet_seconds)))
        assert swapping.releases >= set(range(2 + warm, 1 + swaps)) - {1 + swaps}
    collected = sum(e["generations"] for e in store.log.read() if e["event"] == "gc")
    return Figures(swaps, before, swapping, grown, collected, seconds)


def check(figures: Figures, ratio: float, memory: float) -> None:
    assert figures.swapping.failed == figures.quiet.failed == []
    assert figures.swapping.mixed == figures.quiet.mixed == []
    assert figures.collected >= figures.swaps - 3
    assert figures.swapping.ms(0.99) <= ratio * figures.quiet.ms(0.99), str(figures)
    assert figures.memory <= memory, str(figures)


def test_a_hundred_swaps_under_load(world, tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "LOOK", 0.01)
    check(measure(world, tmp_path, 100, 1.0, pause=0.001), ratio=20, memory=1.5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pause", [0.0, 0.005], ids=["without-a-pause", "paced"])
def test_a_thousand_swaps_under_load(world, tmp_path, capsys, pause):
    figures = measure(world, tmp_path, 1000, 15.0, pause)
    with capsys.disabled():
        sys.stdout.write(f"\nhot swap, {pause:g} s between two calls: {figures}\n")
    check(figures, ratio=2, memory=1.1)
