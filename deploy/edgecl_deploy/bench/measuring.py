"""Measures engines side by side: each is a process of its own, and they take turns.

So memory and start are those of one engine, a drift of the machine's speed meets all of them, and
the threads of one do not take the cores of another, beyond the moment in which they go to sleep.
"""

import json
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING, Any

from edgecl_deploy.bench.contestant import STAGES
from edgecl_deploy.children import answer_of, talking
from edgecl_deploy.choice import Choice, Wish
from edgecl_deploy.engines import default_engine
from edgecl_deploy.engines.processor import cpu_name, usable_cores
from edgecl_deploy.errors import EngineError
from edgecl_deploy.forms import AUTO
from edgecl_deploy.images import DEVICE_PIXELS
from edgecl_deploy.manifest.precisions import PRECISIONS
from edgecl_deploy.sample import encoded, sample_photo

if TYPE_CHECKING:
    import subprocess

RANKS = (50, 95, 99)  # percentiles
_PHOTOS, _MADE = 4, 4_000_000  # pictures, and pixels of them together: large ones take seconds
_TURN = 0.25  # seconds
_LEAST_TURNS = 3
_MODULE = "edgecl_deploy.bench.contestant"


@dataclass
class Measured:
    """What was measured of one engine.

    Attributes:
        wish: What was asked for.
        error: Why it cannot run here, None if it can.
        start: What it told when it had answered its first image.
        ms: Milliseconds per image, by stage.
        rates: Images per second, by turn: `overlapped` and `sequential`.
        swaps: Milliseconds to read, verify, test and take the release again.
        mb: Its resident memory at the most.
    """

    wish: Wish
    error: str | None = None
    start: dict[str, Any] = field(default_factory=dict)
    ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    rates: dict[str, list[float]] = field(
        default_factory=lambda: {"overlapped": [], "sequential": []}
    )
    swaps: list[float] = field(default_factory=list)
    mb: float = 0.0

    @property
    def name(self) -> str:
        """The engine and its precision, for people."""
        return f"{self.wish.engine} {self.wish.precision}"

    def rank(self, stage: str, percent: int) -> float:
        """Return a percentile of the milliseconds of a stage."""
        values = sorted(self.ms[stage])
        return values[max(0, math.ceil(percent / 100 * len(values)) - 1)]

    def rate(self, name: str) -> float:
        """Return the images per second: the median over turns."""
        return median(self.rates[name])

    def add(self, turn: dict[str, Any]) -> None:
        """Take up what a turn measured."""
        for stage, values in turn["ms"].items():
            self.ms[stage] += values
        for name, seconds in turn["seconds"].items():
            self.rates[name].append(turn["images"] / seconds)
        self.swaps.append(turn["swap_ms"])
        self.mb = turn["mb"]

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        head = {"engine": self.wish.engine, "precision": self.wish.precision}
        if self.error is not None:
            return {**head, "error": self.error}
        return {
            **head,
            "version": self.start["version"],
            "ms": {
                stage: {f"p{percent}": self.rank(stage, percent) for percent in RANKS}
                for stage in STAGES
            },
            "runs": len(self.ms["run"]),
            "images_per_second": {name: self.rate(name) for name in self.rates},
            "start_ms": self.start["start_ms"],
            "swap_ms": median(self.swaps),
            "mb": self.mb,
        }


@dataclass(frozen=True)
class Bench:
    """The report of `edgecl-device bench`."""

    engines: tuple[Measured, ...]  # the first one can run
    batch: int  # images of one run
    picture: str

    def ratio(self, one: Measured) -> float:
        """Return how many times as many images per second as the first one: median over turns."""
        pairs = zip(one.rates["overlapped"], self.engines[0].rates["overlapped"], strict=True)
        return median(own / base for own, base in pairs)

    def to_json(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        import numpy
        import PIL

        first = self.engines[0]
        about = {name: first.start[name] for name in ("release", "program", "classes", "decode")}
        return {
            **about,
            "batch": self.batch,
            "threads": first.wish.threads,
            "picture": self.picture,
            "engines": [
                {**each.to_json(), **({} if each.error else {"ratio": self.ratio(each)})}
                for each in self.engines
            ],
            "cpu": cpu_name(),
            "cores": usable_cores(),
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
        }


def resolved(wish: Wish, choice: Choice | None) -> Wish:
    """Return a wish without `auto`, as `Classifier.open` meets it.

    Args:
        wish: What was asked for.
        choice: What was measured in the store.
    """
    if wish == Wish() and choice is not None:
        return Wish(choice.engine, choice.precision, batch=choice.batch, threads=choice.threads)
    return other(wish, default_engine() if wish.engine == AUTO else wish.engine, wish.precision)


def other(wish: Wish, engine: str, precision: str) -> Wish:
    """Return the same for another engine.

    Args:
        wish: The first one's.
        engine: Its name.
        precision: `auto` is float32.
    """
    precise = PRECISIONS[0] if precision == AUTO else precision
    return replace(wish, engine=engine, precision=precise)


def measure(
    path: str,
    release: str | None,
    wishes: Sequence[Wish],
    *,
    batch: int,
    seconds: float,
    size: tuple[int, int],
) -> Bench:
    """Measure engines.

    Args:
        path: A store, or a bundle.
        release: Of a bundle.
        wishes: The engines; others are compared with the first.
        batch: Images of one run.
        seconds: How long, all together, after they have started; at least a few turns are taken.
        size: Width and height of the pictures that are made.

    Raises:
        EngineError: The first one cannot run here.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        count = max(1, min(_PHOTOS, _MADE // (size[0] * size[1])))
        photos = [str(Path(folder) / f"{seed}.jpg") for seed in range(count)]
        for seed, name in enumerate(photos):
            Path(name).write_bytes(encoded(sample_photo(*size, seed)))
        asked = {
            "path": os.path.abspath(path),
            "release": None if release is None else os.path.abspath(release),
            "photos": photos,
            "runs_of": batch,
            "max_pixels": max(DEVICE_PIXELS, size[0] * size[1]),
        }
        running = [
            _Running(stack.enter_context(talking(_MODULE, _text(asked, wish))), wish, batch)
            for wish in wishes
        ]
        engines = tuple(each.measured for each in running)
        if engines[0].error is not None:
            raise EngineError(
                f"{engines[0].name} must run here",
                engines[0].error,
                "`edgecl-device doctor` names what each engine can do here.",
            )
        able = [each for each in running if each.measured.error is None]
        end, turns = monotonic() + seconds, 0
        while turns < _LEAST_TURNS or monotonic() < end:
            for each in able:
                each.turn()
            turns += 1
    width, height = size
    return Bench(engines, batch, f"{width} x {height} JPEG")


def _text(asked: dict[str, Any], wish: Wish) -> str:
    return json.dumps({**asked, "wish": asdict(wish)})


class _Running:
    """An engine whose process waits for its turn."""

    def __init__(self, process: "subprocess.Popen[str]", wish: Wish, batch: int) -> None:
        self._process, self._batch = process, batch
        self.measured = Measured(wish)
        self._runs = 1
        self.measured.start = answer_of(process)
        self.measured.error = self.measured.start.get("error")

    def turn(self) -> None:
        """Let it measure for about a turn.

        Raises:
            EngineError: It ended.
        """
        turn = answer_of(self._process, str(self._runs))
        if "error" in turn:
            raise EngineError(
                f"{self.measured.name} must go on running",
                turn["error"],
                "Measure it alone to see why.",
            )
        self.measured.add(turn)
        a_run = self._batch * sum(median(values) for values in turn["ms"].values()) / 1e3
        self._runs = max(1, min(100, round(_TURN / 3 / max(a_run, 1e-6))))  # each is made thrice
