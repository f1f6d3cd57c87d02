"""What a device sends of its classes, if somebody asks for it: sums over features, no image.

They are not anonymous (docs/privacy.md): of one image they are its feature, and from the feature
the image can be approximated.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgecl_deploy.enrol.overlay import ACTIVE, Facts, Judged
from edgecl_deploy.enrol.ridge import summed
from edgecl_deploy.errors import StatisticsError
from edgecl_deploy.format import (
    RIDGE,
    SOLVED,
    Statistics,
    SummedClass,
    packed,
    parse_statistics,
    turned,
)
from edgecl_deploy.manifest import names as class_names
from edgecl_deploy.unknown.own import unit

SENSITIVE = (
    "The sums of a few images are as sensitive as the images: of one image they are its feature, "
    "from which a likeness of it can be made; those of n images hold the span of their features."
)


def added(
    facts: Facts,
    learned: Mapping[str, np.ndarray],
    states: Sequence[Judged],
    wanted: Iterable[str] = (),
    *,
    device: str,
    now: float,
) -> Statistics:
    """Add up what the head of a release sees of the images of this device's classes.

    Args:
        facts: About the release.
        learned: Its learned tensors.
        states: Of the enrolments.
        wanted: Classes; all that answer if there are none.
        device: Its id.
        now: Seconds since 1970.

    Raises:
        StatisticsError: There is no class, or one that does not answer on this release.
    """
    enrol = facts.check()
    mine = [each for each in states if each.state == ACTIVE and not each.again]
    there = list(dict.fromkeys(each.entry.name for each in mine))
    chosen = list(dict.fromkeys(wanted)) or there
    for name in chosen:
        if name not in there:
            why = next((each.reason for each in states if each.entry.name == name), "")
            raise StatisticsError(
                f"{class_names.quoted(name)} must be a class of this device that answers",
                why or "none of this name, or one whose features this release must compute again",
                "`edgecl-device enrolled list` shows what there is.",
            )
    if not chosen:
        raise StatisticsError(
            "a device must have a class of its own that answers", "none", "Enrol one first."
        )
    of_class = {
        name: np.concatenate([
            each.kept.feature
            for each in mine
            if each.entry.name == name and each.kept.feature is not None
        ])
        for name in chosen
    }
    seen = {name: summed(enrol, learned, features) for name, features in of_class.items()}
    gram = None
    kind = RIDGE if enrol.kind in SOLVED else enrol.kind
    if kind == RIDGE:
        rows = np.concatenate(list(seen.values()))
        gram = turned(rows) if 2 * len(rows) <= rows.shape[1] else packed(rows.T @ rows)
    begin, end = enrol.columns
    found = Statistics(
        id=secrets.token_hex(16),
        kind=kind,
        program=facts.program,
        interface=facts.interface,
        backbone=facts.backbone,
        space=facts.space,
        classes=tuple(
            SummedClass(name, len(rows), name in facts.classes) for name, rows in seen.items()
        ),
        sums=np.stack([rows.sum(axis=0) for rows in seen.values()]),
        gram=gram,
        normed=None
        if gram is None
        else np.stack([unit(each[:, begin:end]).sum(axis=0) for each in of_class.values()]),
        sources=tuple(sorted({e.entry.manifest for e in mine if e.entry.name in seen})),
        device=device,
        created=int(now),
        release=facts.release,
    )
    return parse_statistics(found.to_bytes())
