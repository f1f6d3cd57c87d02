"""The classes of this device on top of a release.

Laws: the release is tested alone and first; an overlay that cannot be made leaves the release to
answer alone; no enrolment is lost by a release, it rests until one fits it again.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgecl_deploy.engines import FLOAT32
from edgecl_deploy.enrol import discriminant, means, ridge
from edgecl_deploy.enrol.local import Content, Kept
from edgecl_deploy.enrol.records import IMAGES, NAME, Entry, Record
from edgecl_deploy.enrol.ridge import Solved
from edgecl_deploy.errors import (
    DeployError,
    EnrolmentUnsupportedError,
    NonFiniteError,
    SelfTestError,
    StateMissingError,
    StoreError,
    TensorShapeError,
    one_line,
)
from edgecl_deploy.files import ReleaseFiles, is_passing
from edgecl_deploy.format import (
    DISCRIMINANT,
    SOLVED,
    TEXT,
    Enrol,
    Program,
    class_rows,
    feature_space,
    live_rows,
    packed_size,
    read_tensors,
)
from edgecl_deploy.loaded import Labels, LoadedRelease, Over
from edgecl_deploy.unknown.packs import with_classes
from edgecl_deploy.unknown.rule import Reference

ACTIVE, SUPERSEDED, SUSPENDED = "active", "superseded", "suspended"
STATES = (ACTIVE, SUPERSEDED, SUSPENDED)
ROUNDING = 1e-5  # of a score: an engine may choose another kernel for another number of rows
AT_ONCE = 8  # images of one run while others are answered

_HOW = {
    IMAGES: ("from images", "a program of class means on this backbone, such as simplecil"),
    NAME: ("by its name", "a program of class names on this backbone, such as zero-shot"),
}

Pixels = Callable[[Record], np.ndarray]
Again = MutableMapping[tuple[str, str], np.ndarray]  # manifest and space -> float32 [n, f]


@dataclass(frozen=True)
class Facts:
    """What decides whether enrolments fit a release."""

    release: int
    digest: str
    program: str
    interface: str
    backbone: str
    space: str  # digest of all that its features depend on
    classes: frozenset[str]
    enrol: Enrol | None
    factor: bool | None  # whether what a head is solved from is at hand; None: there is none

    @classmethod
    def of(
        cls,
        program: Program,
        files: ReleaseFiles,
        learned: Mapping[str, np.ndarray],
        precision: str = FLOAT32,
    ) -> "Facts":
        """Read them off a release.

        Args:
            program: Of the release.
            files: The release.
            learned: Its learned tensors.
            precision: In which it runs.
        """
        release = files.release
        enrol = program.enrol
        depends = () if enrol is None else enrol.depends
        space = feature_space(
            release.backbone,
            release.interface,
            {name: learned[name] for name in depends},
            None if precision == FLOAT32 else precision,
        )
        return cls(
            release=release.number,
            digest=files.digest,
            program=release.program,
            interface=release.interface,
            backbone=release.backbone,
            space=space,
            classes=frozenset(class_rows(files.packs)),
            enrol=enrol,
            factor=None if release.enrolment is None else release.enrolment.blob in files.blobs,
        )

    def unsupported(self, kind: str = IMAGES) -> str | None:
        """Return why the program cannot take a class from images, or by its name; None if it can.

        Args:
            kind: Of the enrolment.
        """
        if self.enrol is None:
            return f"{self.program}, whose classes are trained, or are a name and images at once"
        if (self.enrol.kind == TEXT) != (kind == NAME):
            named = self.enrol.kind == TEXT
            of, other = ("names", "images") if named else ("images", "names")
            return f"{self.program}, whose classes are {of}, not {other}"
        return None

    @property
    def takes(self) -> str:
        """The kind of enrolment that the program takes, if it takes one."""
        return NAME if self.enrol is not None and self.enrol.kind == TEXT else IMAGES

    def missing(self) -> str | None:
        """Return what the program lacks to take a class, None if it lacks nothing."""
        if self.enrol is None or self.enrol.kind not in SOLVED or self.factor:
            return None
        if self.factor is None:
            return f"release {self.release}, which was exported without --enrolment"
        return "a factor that was not fetched, or is damaged"

    def check(self, kind: str = IMAGES) -> Enrol:
        """Return how the program takes a class.

        Args:
            kind: Of the enrolment.

        Raises:
            EnrolmentUnsupportedError: It cannot.
            StateMissingError: What it needs is not here.
        """
        missing = self.missing()
        if missing is not None:
            raise StateMissingError(
                f"the head of {self.program} needs the factor of its release",
                missing,
                "Release with `edgecl export release --enrolment RUN`; on a store run "
                "`edgecl-device config STORE enrol=true`, then update.",
            )
        wrong = self.unsupported(kind)
        if wrong is not None or self.enrol is None:
            raise EnrolmentUnsupportedError(
                f"the program of the release must take a class {_HOW[kind][0]}",
                wrong or "no declaration",
                f"Release {_HOW[kind][1]}; a bundle that was exported before is exported again to "
                "a new folder.",
            )
        return self.enrol


@dataclass(frozen=True, eq=False)
class Judged:
    """An enrolment and its state on a release."""

    kept: Kept
    state: str
    reason: str = ""
    again: bool = False  # its features are computed again, from the images that it kept

    @property
    def entry(self) -> Entry:
        """What counts of it."""
        return self.kept.entry


def judged(content: Content, facts: Facts) -> list[Judged]:
    """Return the state of every enrolment on a release."""
    return [_judged(kept, facts) for kept in content.kept]


def _judged(kept: Kept, facts: Facts) -> Judged:
    entry, record = kept.entry, kept.record
    if record is None:
        return Judged(kept, SUSPENDED, f"it is damaged: {kept.wrong}")
    wrong = facts.unsupported(record.kind)
    if wrong is not None:
        return Judged(kept, SUSPENDED, f"the release has the program {wrong}")
    missing = facts.missing()
    if missing is not None:
        return Judged(kept, SUSPENDED, f"its program needs a factor; found {missing}")
    again = record.space != facts.space
    if again and (record.pixels is None or record.backbone != facts.backbone):
        return Judged(
            kept,
            SUSPENDED,
            f"release {facts.release} computes other features than release {record.release}, and "
            "the images were not kept for it: enrol the class again",
        )
    published = entry.name in facts.classes
    extends = record.known and entry.name == record.name
    if extends and not published:
        reason = f"release {facts.release} does not have the class, of which these are more images"
        return Judged(kept, SUSPENDED, reason)
    if published and not extends and not entry.both:
        reason = f"release {facts.release} has a class of this name"
        return Judged(kept, SUPERSEDED, f"{reason}: `edgecl-device enrolled resolve` decides")
    return Judged(kept, ACTIVE, again=again)


@dataclass(frozen=True, eq=False)
class Composed:
    """A release with the classes of this device.

    Attributes:
        loaded: What answers: an overlay, or the release alone if no enrolment is active.
        states: Of every enrolment.
        features: Of the classes that answer, by name, each float32 [n, f].
        changed: How many images of the self-test each of these classes would take; those that may
            not rest.
        moved: How many go from one class of the release to another: a head is solved for all.
        wrong: Why the release answers alone although there are enrolments.
        solved: The head, where it is solved again.
    """

    loaded: LoadedRelease
    states: Sequence[Judged]
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    moved: int = 0
    wrong: str = ""
    solved: Solved | None = None


def compose(
    base: LoadedRelease, facts: Facts, content: Content, pixels: Pixels, known: Again
) -> Composed:
    """Put enrolments on a release, and test what comes out.

    A class that would take an image of the release's self-test rests, unless that was allowed when
    it was enrolled. Where a head that is solved again moves one from a class of the release to
    another, all classes of the device did it: the newest rests, unless it was allowed for one.

    Args:
        base: The release, tested.
        facts: About it.
        content: The enrolments.
        pixels: Reads the images that an enrolment kept.
        known: Features that were computed again before; those of this time are added.
    """
    states = [_again(base, facts, each, pixels, known) for each in judged(content, facts)]
    changed: dict[str, int] = {}
    while True:
        active = [each for each in states if each.state == ACTIVE]
        features = _features(active)
        if not features and not content.hidden:
            return Composed(base, states, {}, changed)
        loaded, head = _overlay(base, facts, features, content)
        taken, moved = _taken(base, loaded, features, fixed=head is None)
        changed |= taken
        forced = {each.entry.name for each in active if each.entry.forced}
        resting = {
            name: f"it takes {count} images of the self-test"
            for name, count in taken.items()
            if name not in forced
        }
        if moved and not forced and not resting:
            last = active[-1].entry.name
            resting[last] = f"with it {moved} images of the self-test are of another class"
        if not resting:
            return Composed(loaded, states, features, changed, moved, solved=head)
        states = [_rested(each, resting) for each in states]


def _rested(each: Judged, resting: Mapping[str, str]) -> Judged:
    if each.state != ACTIVE or each.entry.name not in resting:
        return each
    return replace(each, state=SUSPENDED, reason=resting[each.entry.name])


def _again(base: LoadedRelease, facts: Facts, each: Judged, pixels: Pixels, known: Again) -> Judged:
    """Return an enrolment with the features of this release, if it needs and can have them.

    Raises:
        DeployError: There is a shortage, which says nothing of its images.
    """
    kept = each.kept
    if not each.again or kept.record is None:
        return each
    key = (each.entry.manifest, facts.space)
    if key not in known:
        try:
            images = pixels(kept.record)
        except DeployError as error:
            if is_passing(error):
                raise
            reason = f"its images are damaged: {one_line(error)}"
            return replace(each, state=SUSPENDED, reason=reason, again=False)
        known[key] = features_of(base, images)
    return replace(each, kept=replace(kept, feature=known[key]), again=False)


def _features(active: Sequence[Judged]) -> dict[str, np.ndarray]:
    """Return the features of each class, in the order in which the classes came."""
    parts: dict[str, list[np.ndarray]] = {}
    for each in active:
        assert each.kept.feature is not None  # noqa: S101  it is active
        parts.setdefault(each.entry.name, []).append(each.kept.feature)
    return {name: np.concatenate(each) for name, each in parts.items()}


def features_of(base: LoadedRelease, images: np.ndarray) -> np.ndarray:
    """Return the features of prepared images, a few at a time: others are answered meanwhile.

    Args:
        base: The release that computes them.
        images: uint8 [n, side, side, 3].

    Returns:
        float32 [n, f].
    """
    runs = [base.run(images[i : i + AT_ONCE]).feature for i in range(0, len(images), AT_ONCE)]
    return np.concatenate(runs)


def _overlay(
    base: LoadedRelease, facts: Facts, features: Mapping[str, np.ndarray], content: Content
) -> tuple[LoadedRelease, Solved | None]:
    """Bind the release to its tensors with those of the classes.

    Returns:
        The overlay, and the head where it is solved again.

    Raises:
        StoreError: All classes are hidden.
    """
    new: dict[str, np.ndarray] = {}
    head, added = None, tuple(features)
    if features:
        enrol = facts.check(facts.takes)
        if enrol.kind in SOLVED:
            added = tuple(name for name in features if name not in facts.classes)
            head, new = _again_solved(base, enrol, features, added)
        else:
            new = {enrol.tensor: means.with_rows(base.learned[enrol.tensor], features)}
    learned = {**base.learned, **{name: _frozen(name, each) for name, each in new.items()}}
    rows = (*base.rows, *added)
    live = (*live_rows(base.files.packs), *(True for _ in added))
    names = frozenset(features) - facts.classes
    if not {*rows} - {*content.hidden}:
        raise StoreError(
            "a class must be left that is not hidden",
            "none",
            "Show one again with `edgecl-device enrolled suppress --off`.",
        )
    labels = Labels.of(rows, live)
    loaded = replace(
        base,
        bound=base.form.bind(learned),
        learned=learned,
        rows=rows,
        labels=labels,
        reference=_reference(base, facts, features, labels),
        over=Over(base, content.number, names, frozenset(content.hidden)),
    )
    return loaded, head


def _reference(
    base: LoadedRelease, facts: Facts, features: Mapping[str, np.ndarray], labels: Labels
) -> Reference | None:
    """Return what p-values are from, with the classes of this device.

    A name has no images: it is judged by the pooled distances of the names of the release. Where
    the release compares images with other rows than the embeddings, none can be given.
    """
    if base.reference is None or not features:
        return base.reference
    if facts.takes == NAME and any(each.table.mean is not None for each in base.reference.parts):
        return None
    kind = facts.check(facts.takes).kind
    return Reference.of(labels.names, with_classes(base.reference.parts, features, kind))


def _again_solved(
    base: LoadedRelease, enrol: Enrol, features: Mapping[str, np.ndarray], added: Sequence[str]
) -> tuple[Solved, dict[str, np.ndarray]]:
    """Solve a head for the classes of a release and those of the device.

    Args:
        base: The release.
        enrol: How its program takes a class.
        features: Of the classes of the device.
        added: Those of them that the release has not.

    Returns:
        The head, and its tensors by name.
    """
    if enrol.kind == DISCRIMINANT:
        declared = base.files.release.enrolment
        assert declared is not None  # noqa: S101  `Facts.check` looked
        held = read_tensors(base.files.blobs[declared.blob])
        known = discriminant.Known.read(held, declared, len(base.rows))
        live = live_rows(base.files.packs)
        return discriminant.solved(enrol, base.learned, base.rows, live, known, features)
    head = ridge.solved(enrol, base.learned, base.rows, _factor(base), features)
    weight, scale = ridge.head_of(head, (*base.rows, *added))
    if enrol.scale is None:
        return head, {enrol.tensor: weight * scale[:, None]}
    return head, {enrol.tensor: weight, enrol.scale: scale}


def _factor(base: LoadedRelease) -> np.ndarray:
    """Read the factor of a release: float32, packed.

    Raises:
        TensorShapeError: It is not what the release declares.
    """
    declared = base.files.release.enrolment
    assert declared is not None  # noqa: S101  `Facts.check` looked
    array = read_tensors(base.files.blobs[declared.blob]).get("factor")
    size = packed_size(declared.size)
    if array is None or array.shape != (size,) or array.dtype != np.float32:
        raise TensorShapeError(
            f"the factor of release {base.number} must be float32 [{size}]",
            "none" if array is None else f"{array.dtype} {list(array.shape)}",
            "Make the release again with `edgecl export release --enrolment`.",
        )
    return array


def _frozen(name: str, array: np.ndarray) -> np.ndarray:
    """Return a learned tensor as an engine takes it.

    Raises:
        NonFiniteError: A value is NaN or infinite.
    """
    if not np.isfinite(array).all():
        raise NonFiniteError(
            f"every value of {name} must be finite with the classes of this device",
            "NaN or infinity",
            "Remove the class that was enrolled last.",
        )
    array = np.require(array, requirements=["C", "A"])
    array.flags.writeable = False
    return array


def _taken(
    base: LoadedRelease,
    loaded: LoadedRelease,
    features: Mapping[str, np.ndarray],
    *,
    fixed: bool,
) -> tuple[dict[str, int], int]:
    """Return how many images of the release's self-test each class of this device takes.

    Args:
        base: The release.
        loaded: The overlay.
        features: Of the classes of this device.
        fixed: The release's own scores stay as they are.

    Returns:
        Class -> images that it takes; images that go from one class of the release to another.

    Raises:
        SelfTestError: A score of the release's own rows is another one.
    """
    taken, moved = dict[str, int](), 0
    for images in base.canary_images():
        for i in range(0, len(images), AT_ONCE):
            part = images[i : i + AT_ONCE]
            scores, alone = loaded.run(part).scores, base.run(part).scores
            worst = float(np.abs(scores[:, : alone.shape[1]] - alone).max(initial=0.0))
            if fixed and not worst <= ROUNDING:
                raise SelfTestError(
                    "the classes of this device must leave the release's scores as they are",
                    f"a change of {worst:g}",
                    "Remove the class that was enrolled last.",
                )
            now = loaded.labels.merge(scores).argmax(axis=1)
            then = base.labels.merge(alone).argmax(axis=1)
            for new, old in zip(now, then, strict=True):
                name = loaded.labels.names[new]
                if name == base.labels.names[old]:
                    continue
                if name in features:
                    taken[name] = taken.get(name, 0) + 1
                elif not fixed:
                    moved += 1
    return taken, moved


def alone(base: LoadedRelease, content: Content, reason: str) -> Composed:
    """Return a release that answers alone, since its enrolments cannot be put on it."""
    states = [Judged(kept, SUSPENDED, reason) for kept in content.kept]
    return Composed(base, states, wrong=reason)
