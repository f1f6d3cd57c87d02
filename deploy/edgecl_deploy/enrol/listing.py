"""Lists the classes of a device, from its disk alone: no model is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecl_deploy.enrol.local import Content, Local
from edgecl_deploy.enrol.overlay import Facts, Judged, judged
from edgecl_deploy.files import BundleFiles, ReleaseFiles
from edgecl_deploy.format import learned_from


@dataclass(frozen=True)
class Enrolled:
    """A class of this device.

    Attributes:
        name: Under which it answers.
        state: `active`, `superseded` or `suspended`.
        reason: Why it does not answer; empty if it does.
        images: How many images it is of.
        enrolments: In how many calls.
        known: Whether the release has a class of this name.
        created: When the last one was made: seconds since 1970.
        by: Who made it.
        note: What was noted with it.
        images_kept: Whether the images themselves are kept.
    """

    name: str
    state: str
    reason: str
    images: int
    enrolments: int
    known: bool
    created: int
    by: str
    note: str
    images_kept: bool


def listed(states: Sequence[Judged], classes: Iterable[str]) -> tuple[Enrolled, ...]:
    """Return the classes of a device; enrolments of one name and one state are one line.

    Args:
        states: Of its enrolments.
        classes: Of the release.
    """
    published = frozenset(classes)
    groups: dict[tuple[str, str, str], list[Judged]] = {}
    for each in states:
        groups.setdefault((each.entry.name, each.state, each.reason), []).append(each)
    found = []
    for (name, state, reason), group in groups.items():
        records = [each.kept.record for each in group if each.kept.record is not None]
        last = records[-1] if records else None
        found.append(
            Enrolled(
                name=name,
                state=state,
                reason=reason,
                images=sum(record.images for record in records),
                enrolments=len(group),
                known=name in published,
                created=0 if last is None else last.created,
                by="" if last is None else last.by,
                note="" if last is None else last.note,
                images_kept=bool(records) and all(r.pixels is not None for r in records),
            )
        )
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Overview:
    """The classes of a device on a release.

    Attributes:
        content: Of the local folder.
        enrolled: Its classes.
        facts: About the release.
        learned: The learned tensors of the release.
        states: Of the enrolments.
    """

    content: Content
    enrolled: tuple[Enrolled, ...]
    facts: Facts
    learned: Mapping[str, np.ndarray]
    states: Sequence[Judged]

    @property
    def classes(self) -> frozenset[str]:
        """Those of the release."""
        return self.facts.classes


def overview(folder: Path, bundle: BundleFiles, files: ReleaseFiles) -> Overview:
    """List the classes of a local folder, and whether each fits a release in float32.

    What only a run can tell, such as images of the self-test that a class takes, is in
    `Classifier.enrolled`.

    Args:
        folder: The local folder.
        bundle: Of the device.
        files: The release.
    """
    program = bundle.check(files)
    learned = learned_from(program, files.packs, files.blobs)
    facts = Facts.of(program, files, learned)
    content = Local(folder).read()
    states = judged(content, facts)
    return Overview(content, listed(states, facts.classes), facts, learned, states)
