"""Reports on a release on trial: every process that serves it writes a small file.

The files are in `health/`, the only folder of a store that the service may write. They are hints:
a process that cannot write one still serves.
"""

import json
import math
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from edgecl_deploy.errors import DeployError
from edgecl_deploy.files import read_file
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.manifest.fields import Fields
from edgecl_deploy.manifest.limits import MAX_INTEGER
from edgecl_deploy.manifest.whole import write_whole
from edgecl_deploy.store.layout import HEALTH
from edgecl_deploy.store.records import Limits

RELEASE, DEVICE, APPLICATION = "release", "device", "application"  # whose fault it is
_LARGEST = 64 * 1024  # bytes of one report
_LONGEST = 300  # characters of what is wrong


@dataclass(frozen=True)
class Report:
    """The report of one process on one generation."""

    generation: int
    images: int = 0  # that this generation was asked about so far
    failed: int = 0  # those without an answer, though they could be read
    error: str = ""  # why this process will not serve it; empty if it does
    whose: str = RELEASE  # fault that is
    fallback: str = ""  # why it serves it in float32, where another precision was asked for


class Reporter:
    """Writes the reports of one process."""

    def __init__(self, store: Path) -> None:
        self._path = store / HEALTH / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.json"

    def write(self, report: Report) -> None:
        """Replace the report of this process."""
        plain = {"error": _plain(report.error), "fallback": _plain(report.fallback)}
        text = {**asdict(report), **plain}
        with suppress(OSError):
            write_whole(self._path, json.dumps(text).encode(), mode=0o644, durable=False)

    def close(self) -> None:
        """Remove the report of this process."""
        with suppress(OSError):
            self._path.unlink()


def read_reports(store: Path, generation: int) -> list[Report]:
    """Read the reports of all processes on a generation; a file that is no report is skipped."""
    reports = []
    for path in sorted((store / HEALTH).glob("*.json")):
        with suppress(DeployError):
            report = _parse(read_file(path, _LARGEST))
            if report.generation == generation:
                reports.append(report)
    return reports


def _parse(data: bytes) -> Report:
    fields = Fields(load_object(data, "health report", _LARGEST), "health report")
    error = fields.take("error")
    fallback = fields.take("fallback") if fields.has("fallback") else ""
    whose = (RELEASE, DEVICE, APPLICATION)
    return Report(
        fields.integer("generation", 0, MAX_INTEGER),
        fields.integer("images", 0, MAX_INTEGER),
        fields.integer("failed", 0, MAX_INTEGER),
        _plain(error) if isinstance(error, str) else "no reason given",
        fields.choice("whose", whose) if fields.has("whose") else RELEASE,
        _plain(fallback) if isinstance(fallback, str) else "",
    )


def _plain(text: str) -> str:
    return (text if text.isascii() and text.isprintable() else ascii(text)[1:-1])[:_LONGEST]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a trial."""

    reason: str
    whose: str = RELEASE  # only what is the release's own denies it


def judge(reports: Sequence[Report], limits: Limits, over: bool) -> Fault | None:
    """Return what is wrong with a trial, or None.

    Args:
        reports: Those of all processes.
        limits: The operator's demands.
        over: Whether the trial's time is over: then there must be enough images.
    """
    faults = [Fault(each.error, each.whose) for each in reports if each.error]
    for fault in sorted(faults, key=lambda each: each.whose != RELEASE):
        return fault
    images, failed = sum(each.images for each in reports), sum(each.failed for each in reports)
    allowed = math.floor(limits.trial_failures * images)
    if failed > allowed:
        return Fault(f"{failed} of {images} images got no answer; {allowed} may")
    if over and images < limits.trial_requests:
        silent = (
            f"{images} images in {limits.trial_seconds:g} s; {limits.trial_requests} must come: "
            "is the application running?"
        )
        return Fault(silent, APPLICATION)
    return None
