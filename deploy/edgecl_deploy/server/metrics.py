"""What the server counts, for Prometheus and for the statistics extension.

Names as prometheus.io/docs/practices/naming asks: a prefix, base units, `_total`. No label has more
values than are written here, but `label`, which has `MAX_LABELS` and `other`.
"""

import threading
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edgecl_deploy.drift.verdict import Drift
from edgecl_deploy.enrol.listing import Enrolled
from edgecl_deploy.enrol.overlay import STATES
from edgecl_deploy.loaded import LoadedRelease, Prediction
from edgecl_deploy.server.drift import of_drift
from edgecl_deploy.server.limits import MAX_LABELS
from edgecl_deploy.server.oip import local_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REASONS = {  # of a refusal, by the status of its answer
    400: "malformed", 401: "auth", 403: "auth", 404: "unknown", 405: "unknown", 408: "timeout",
    409: "enrol", 413: "size", 415: "malformed", 421: "host", 422: "enrol", 431: "size",
    500: "error", 503: "full", 504: "timeout",
}  # fmt: skip
OTHER = "other"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32)

# else each counter has a second series, with the time of its start
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Now(Collector):
    """What is true at the moment of a scrape."""

    def __init__(
        self,
        loaded: Callable[[], LoadedRelease],
        waiting: Callable[[], int],
        enrolled: Callable[[], Iterable[Enrolled]],
        drift: Callable[[], Drift | None],
        floor: Callable[[], int | None],
    ) -> None:
        self._loaded, self._waiting, self._enrolled = loaded, waiting, enrolled
        self._drift, self._floor = drift, floor

    def describe(self) -> Iterable[Metric]:
        """Name nothing: a collector that is described by running it would need a release."""
        return []

    def collect(self) -> Iterable[Metric]:
        release = self._loaded()
        found = release.files.release
        yield InfoMetricFamily(
            "edgecl_release",
            "The release that answers.",
            {
                "release": str(found.number),
                "local": str(local_of(release)),
                "digest": release.files.digest[:12],
                "program": found.program,
                "backbone": found.backbone[:12],
                "precision": release.precision,
            },
        )
        yield GaugeMetricFamily(
            "edgecl_classes", "Classes that it knows.", value=len(release.classes)
        )
        yield GaugeMetricFamily(
            "edgecl_queue_images",
            "Images that are prepared, wait or run.",
            value=self._waiting(),
        )
        states = Counts(each.state for each in self._enrolled())
        own = GaugeMetricFamily(
            "edgecl_local_classes", "Classes of this device by state.", labels=["state"]
        )
        for state in STATES:
            own.add_metric([state], states[state])
        yield own
        floor = self._floor()
        if floor is not None:
            yield GaugeMetricFamily(
                "edgecl_forgotten_floor",
                "Releases before it are erased once a later one has passed its trial; 0: none.",
                value=floor,
            )
        drift = self._drift()
        if drift is not None:
            yield from of_drift(drift)


class Metrics:
    """The counters of one server.

    Args:
        loaded: Returns the release that answers now.
        waiting: Returns how many images are in work.
        enrolled: Returns the classes of this device.
        drift: Returns what was seen of the images, None if nothing was.
        floor: Returns the number before which the channel has releases erased, 0 if it has none;
            None without a store.
    """

    def __init__(
        self,
        loaded: Callable[[], LoadedRelease],
        waiting: Callable[[], int],
        enrolled: Callable[[], Iterable[Enrolled]] = tuple,
        drift: Callable[[], Drift | None] = lambda: None,
        floor: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._loaded = loaded
        own = self._registry = CollectorRegistry()
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=own)
        own.register(_Now(loaded, waiting, enrolled, drift, floor))
        self.images = Counter(
            "edgecl_images", "Images by outcome.", ["outcome"], registry=own
        )  # known, unknown, failed, refused
        self._labels = Counter(
            "edgecl_predictions", "Images by the class they got.", ["label"], registry=own
        )
        self.rejected = Counter(
            "edgecl_rejected", "Requests that got no answer, by reason.", ["reason"], registry=own
        )
        self.swaps = Counter("edgecl_swaps", "Releases that took another's place.", registry=own)
        self.requests = Histogram(
            "edgecl_request_seconds",
            "From the headers of a request for answers to the end of its answer.",
            buckets=_SECONDS,
            registry=own,
        )
        self.stages = Histogram(
            "edgecl_stage_seconds",
            "Seconds of each stage of a request.",
            ["stage"],  # prepare, wait, run, answer
            buckets=_SECONDS,
            registry=own,
        )
        self._batches = Histogram(
            "edgecl_batch_images", "Images of a run.", buckets=_SIZES, registry=own
        )
        self._lock = threading.Lock()
        self._seen: set[str] = set()  # classes that have a counter
        self._stages: dict[str, tuple[int, float]] = {}
        self._runs: Counts[int] = Counts()  # by images
        self._run_seconds: Counts[int] = Counts()
        self._last = 0.0
        for outcome in ("known", "unknown", "failed", "refused"):
            self.images.labels(outcome)
        for reason in sorted(set(REASONS.values())):
            self.rejected.labels(reason)

    def ran(self, images: int, seconds: float) -> None:
        """Count a run."""
        self._batches.observe(images)
        with self._lock:
            self._runs[images] += 1
            self._run_seconds[images] += round(seconds * 1e9)

    def stage(self, name: str, seconds: float) -> None:
        """Count a stage of a request."""
        self.stages.labels(name).observe(seconds)
        self._add(name, seconds)

    def _add(self, name: str, seconds: float) -> None:
        with self._lock:
            count, total = self._stages.get(name, (0, 0.0))
            self._stages[name] = (count + 1, total + seconds)

    def answered(self, answers: Iterable[Prediction], refused: int) -> None:
        """Count the images of an answer.

        Args:
            answers: Those of images that ran.
            refused: How many could not be read.
        """
        self.images.labels("refused").inc(refused)
        for each in answers:
            if each.label is None:
                self.images.labels("failed").inc()
                continue
            self.images.labels("unknown" if each.known is False else "known").inc()
            self._count_label(each.label)

    def _count_label(self, label: str) -> None:
        with self._lock:
            if label not in self._seen and len(self._seen) >= MAX_LABELS:
                label = OTHER
            else:
                self._seen.add(label)
            self._labels.labels(label).inc()

    def _drop_labels(self) -> None:
        """Drop classes that are not answered any more; also those of a late answer to a swap."""
        with self._lock:
            for label in self._seen.difference(self._loaded().classes):
                self._seen.remove(label)
                self._labels.remove(label)

    def ended(self, status: int, seconds: float) -> None:
        """Count a request for answers."""
        self.requests.observe(seconds)
        self._add("success" if status < 400 else "fail", seconds)
        if status < 400:
            self._last = time.time()

    def refused(self, status: int) -> None:
        """Count a request that was refused."""
        self.rejected.labels(REASONS.get(status, "malformed")).inc()

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it, without classes that are not answered now."""
        self._drop_labels()
        return generate_latest(self._registry)

    def statistics(self) -> dict[str, Any]:
        """Return the counts of the statistics extension, of all models together."""
        with self._lock:
            stages, runs = dict(self._stages), dict(self._runs)
            run_ns = dict(self._run_seconds)

        def duration(name: str) -> dict[str, int]:
            count, seconds = stages.get(name, (0, 0.0))
            return {"count": count, "ns": round(seconds * 1e9)}

        nothing = {"count": 0, "ns": 0}
        return {
            "last_inference": round(self._last * 1000),
            "inference_count": sum(size * count for size, count in runs.items()),
            "execution_count": sum(runs.values()),
            "inference_stats": {
                "success": duration("success"),
                "fail": duration("fail"),
                "queue": duration("wait"),
                "compute_input": duration("prepare"),
                "compute_infer": duration("run"),
                "compute_output": duration("answer"),
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": nothing,
                    "compute_infer": {"count": count, "ns": run_ns[size]},
                    "compute_output": nothing,
                }
                for size, count in sorted(runs.items())
            ],
        }
