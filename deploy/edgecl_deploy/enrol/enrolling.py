"""Takes a class in from a few pictures, while others are answered."""

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgecl_deploy.enrol import means
from edgecl_deploy.enrol.listing import Enrolled, listed
from edgecl_deploy.enrol.local import Content, Kept, Local, objects_of
from edgecl_deploy.enrol.overlay import (
    ACTIVE,
    SUSPENDED,
    Again,
    Composed,
    Facts,
    Judged,
    alone,
    compose,
    features_of,
)
from edgecl_deploy.enrol.records import (
    IMAGES,
    MAX_CALL,
    MAX_CLASSES,
    MAX_IMAGES,
    MAX_NOTE,
    NAME,
    TENSORS,
    Entry,
    Record,
    parse_record,
)
from edgecl_deploy.enrol.records import Held as HeldTensor
from edgecl_deploy.enrol.ridge import Solved
from edgecl_deploy.enrol.statistics import added
from edgecl_deploy.errors import (
    DeployError,
    ImageError,
    LimitError,
    LocalTestError,
    NameTakenError,
    NotEnoughError,
    OptionError,
    TensorShapeError,
    one_line,
    shown,
)
from edgecl_deploy.files import is_passing
from edgecl_deploy.format import Bundle, Enrol, Statistics, digest, live_rows, write_tensors
from edgecl_deploy.loaded import LoadedRelease
from edgecl_deploy.manifest import names
from edgecl_deploy.manifest.limits import MAX_CLASS_NAME
from edgecl_deploy.serving import Serving

_LOG = logging.getLogger(__name__)
_UNREAD = -1  # no generation
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds, doubled at each shortage
_SHOW = "Show other images, or allow it with --force (force=True)."


@dataclass(frozen=True)
class Enrolment:
    """What came of enrolling images.

    Attributes:
        name: Of the class, as it is stored.
        images: How many were taken.
        skipped: Those that could not be read: their places among the images, and why.
        known: Whether the release had the class already.
        loo: Per image that was taken, whether its class would win if the image had not been shown;
            None where it is the only one.
        nearest: The other class that is most like it, and the cosine of the two means; of a ridge
            head the one with the highest mean score on these images, and that. None if there is
            none.
        changed_canaries: How many images of the release's self-test it takes.
        local: The local generation that has it; 0 if nothing was written.
        warnings: What somebody should look at.
    """

    name: str
    images: int
    skipped: tuple[tuple[int, str], ...]
    known: bool
    loo: tuple[bool | None, ...]
    nearest: tuple[str, float] | None
    changed_canaries: int
    local: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wish:
    """How images are enrolled.

    Attributes:
        note: A remark, for people.
        by: Who does it; None for the user of this process.
        keep_images: Keep the images too, so that the class survives another backbone's features.
        force: Take it although it takes images of the release's self-test.
        dry_run: Change nothing.
    """

    note: str = ""
    by: str | None = None
    keep_images: bool = False
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True, eq=False)
class _Shown:
    """What there is of a class that comes: its images, or the embedding of its name.

    Attributes:
        images: uint8 [n, s, s, 3].
        skipped: Images that could not be read: their places, and why.
        row: float32 [1, f].
    """

    images: np.ndarray | None = None
    skipped: tuple[tuple[int, str], ...] = ()
    row: np.ndarray | None = None

    @property
    def kind(self) -> str:
        """Of the enrolment."""
        return NAME if self.images is None else IMAGES

    @property
    def count(self) -> int:
        """How many images there are."""
        return 0 if self.images is None else len(self.images)

    def features(self, base: LoadedRelease) -> np.ndarray:
        """Return what a release makes of it: float32 [n, f]."""
        if self.images is not None:
            return features_of(base, self.images)
        assert self.row is not None  # noqa: S101  one of them is there
        return self.row


class Enrolments:
    """The classes of this device, as one process has them.

    Args:
        local: The folder that holds them.
        bundle: Of the device.
    """

    def __init__(self, local: Local, bundle: Bundle) -> None:
        self.local = local
        self._bundle = bundle
        self.composed: Composed | None = None  # what answers in this process
        self._seen = _UNREAD  # the generation that was read last
        self._wait, self._next = _FIRST_WAIT, 0.0  # seconds, and when to try again
        self._known: Again = {}  # features that were computed again, of what counts

    # -- a release comes, or another process has written ---------------------------------------

    def over(self, base: LoadedRelease) -> LoadedRelease:
        """Return the release with the classes of this device.

        If that fails it answers alone; the classes that are hidden stay hidden, if the folder can
        be read. After a shortage of this process it is tried again.
        """
        content = Content()
        try:
            self._seen = self.local.current()
            content = self.local.read()
            if content.wrong:
                _LOG.warning("local-damaged: %s", content.wrong)
            composed = self._compose(base, self._facts(base), content)
        except Exception as error:  # whatever it is, it must not be held against the release
            reason = str(error) if isinstance(error, DeployError) else one_line(error)
            _LOG.warning("local-suspended: release %s answers alone: %s", base.number, reason)
            composed = self._hidden_only(base, content, reason)
            if isinstance(error, MemoryError) or is_passing(error):
                self._seen = _UNREAD
                self._wait = min(2 * self._wait, _LONGEST_WAIT)
                self._next = time.monotonic() + self._wait
        else:
            self._wait = _FIRST_WAIT
        self.composed = composed
        return composed.loaded

    def _compose(self, base: LoadedRelease, facts: Facts, content: Content) -> Composed:
        counts = {each.manifest for each in content.entries}
        for key in [key for key in self._known if key[0] not in counts or key[1] != facts.space]:
            del self._known[key]
        return compose(base, facts, content, self.local.pixels, self._known)

    def _hidden_only(self, base: LoadedRelease, content: Content, reason: str) -> Composed:
        found = alone(base, content, reason)
        if not content.hidden:
            return found
        try:
            hidden = replace(content, kept=())
            loaded = compose(base, self._facts(base), hidden, self.local.pixels, {}).loaded
        except Exception as error:  # as above
            _LOG.warning("local-suspended: nothing is hidden either: %s", one_line(error))
            return found
        return replace(found, loaded=loaded)

    def look(self, serving: Serving) -> None:
        """Take what another process has written, if there is something."""
        if self._seen == _UNREAD and time.monotonic() < self._next:
            return
        try:
            stale = self.local.current() != self._seen
        except OSError:
            return
        if stale:
            serving.dress()

    def _facts(self, base: LoadedRelease) -> Facts:
        program = self._bundle.program(base.files.release.program)
        return Facts.of(program, base.files, base.learned, base.precision)

    def listed(self) -> tuple[Enrolled, ...]:
        """Return the classes of this device, as they are in this process."""
        composed = self.composed
        if composed is None:
            return ()
        return listed(_dropped(composed), composed.loaded.alone.labels.names)

    def statistics(self, base: LoadedRelease, wanted: Iterable[str], device: str) -> Statistics:
        """Add up what the head sees of the images of classes of this device.

        Args:
            base: The release, where nothing of this device was put on one yet; else it is the one
                whose features they are, though another takes its place meanwhile.
            wanted: Classes; all that answer if there are none.
            device: Its id.
        """
        composed = self.composed
        states = [] if composed is None else _dropped(composed)
        base = base if composed is None else composed.loaded.alone
        return added(
            self._facts(base), base.learned, states, wanted, device=device, now=self.local.now()
        )

    # -- a class comes --------------------------------------------------------------------------

    def enrol(
        self,
        serving: Serving,
        name: str,
        prepared: Sequence[np.ndarray | ImageError],
        wish: Wish = Wish(),
    ) -> Enrolment:
        """Take a class in, or more images of one.

        Args:
            serving: What answers; it goes on meanwhile.
            name: Of the class.
            prepared: Its images, or why one could not be read.
            wish: How.
        """
        return self._take(serving, checked_name(name), _Shown(*_readable(prepared)), wish)

    def enrol_name(
        self, serving: Serving, name: str, embedding: np.ndarray, wish: Wish = Wish()
    ) -> Enrolment:
        """Take a class in by its name alone.

        Args:
            serving: What answers; it goes on meanwhile.
            name: Of the class.
            embedding: Of the name, by the text tower of the backbone: float32 [f].
            wish: How.

        Raises:
            TensorShapeError: The rows of the release have another length.
        """
        base = serving.loaded.alone
        enrol = self._facts(base).check(NAME)
        width = base.learned[enrol.tensor][0].size
        if embedding.shape != (width,):
            raise TensorShapeError(
                f"an embedding must have {width} numbers, as the rows of the release",
                str(list(embedding.shape)),
                "Export the text program again with `edgecl export text`.",
            )
        return self._take(serving, checked_name(name), _Shown(row=embedding[None]), wish)

    def _take(self, serving: Serving, name: str, shown: "_Shown", wish: Wish) -> Enrolment:
        """Take a class in.

        Raises:
            LocalTestError: It would take images of the release's self-test, or another class of
                this device would.
        """
        base = serving.loaded.alone
        facts = self._facts(base)
        facts.check(shown.kind)
        features = shown.features(base)
        with self.local.lock(), serving.resting() as now:
            if now is not base:
                base, former, facts = now, facts, self._facts(now)
                facts.check(shown.kind)
                if facts.space != former.space:
                    features = shown.features(base)
            content = self.local.read()
            _check_name(name, facts, content, shown.kind)
            _check_room(name, shown.count, content)
            record, blobs = self._record(name, facts, features, shown, wish)
            taken = {each.manifest for each in content.entries}
            while digest(record.to_bytes()) in taken:  # the same images in the same second
                record = replace(record, created=record.created + 1)
            manifest, objects = objects_of(record, blobs)
            entry = Entry(manifest, len(objects[manifest]), name, forced=wish.force)
            added = replace(
                content,
                number=self.local.next_number(),
                kept=(*content.kept, Kept(entry, record, features)),
            )
            composed = self._compose(base, facts, added)
            mine = composed.states[-1]
            if mine.state == SUSPENDED:
                raise LocalTestError(
                    f"{names.quoted(name)} must take no image of the self-test of release "
                    f"{base.number}",
                    mine.reason,
                    _SHOW,
                )
            before = self._before(base, facts, content)
            lost = _lost(before, composed)
            moved = max(0, composed.moved - before.moved)
            if not wish.force:
                _check_others(name, base, lost, moved)
            found = _report(name, base, facts, composed, shown)
            found = replace(
                found,
                changed_canaries=found.changed_canaries + moved,
                warnings=(*found.warnings, *_harm(lost, moved)),
            )
            if wish.dry_run:
                return found
            number = self.local.write(
                added.entries, content.hidden, objects, "enrolled",
                name=name, images=shown.count, by=record.by, release=base.number,
            )  # fmt: skip
            self.composed, self._seen = composed, number
            serving.serve(composed.loaded)
        return replace(found, local=number)

    def _before(self, base: LoadedRelease, facts: Facts, content: Content) -> Composed:
        """Return what answers without the class that comes."""
        known = self.composed
        if known is not None and known.loaded.alone is base and self._seen == content.number:
            return known
        return self._compose(base, facts, content)

    def _record(
        self,
        name: str,
        facts: Facts,
        features: np.ndarray,
        shown: "_Shown",
        wish: Wish,
    ) -> tuple[Record, dict[str, bytes]]:
        blobs, held = {}, {}
        kept = shown.images if wish.keep_images else None
        for key, array in ((TENSORS[shown.kind], features), ("images", kept)):
            if array is not None:
                data = write_tensors({key: array})
                blobs[digest(data)] = data
                held[key] = HeldTensor(digest(data), array.dtype.name, array.shape)
        record = Record(
            name=name,
            known=name in facts.classes,
            skipped=len(shown.skipped),
            program=facts.program,
            interface=facts.interface,
            backbone=facts.backbone,
            space=facts.space,
            release=facts.release,
            digest=facts.digest,
            created=int(self.local.now()),
            by=_checked_by(wish.by or f"user {os.getuid()}"),
            feature=held[TENSORS[shown.kind]],
            pixels=held.get("images"),
            blobs={name: len(data) for name, data in blobs.items()},
            note=_checked_note(wish.note),
            kind=shown.kind,
        )
        return parse_record(record.to_bytes()), blobs


def _lost(before: Composed, after: Composed) -> dict[str, str]:
    """Return the classes that answered and now rest, and why."""
    return {
        new.entry.name: new.reason
        for old, new in zip(before.states, after.states, strict=False)
        if old.state == ACTIVE != new.state
    }


def _harm(lost: Mapping[str, str], moved: int) -> Iterable[str]:
    for name, reason in lost.items():
        yield f"{names.quoted(name)} rests from now on: {reason}"
    if moved:
        yield f"it moves {moved} images of the release's self-test to another class"


def _check_others(name: str, base: LoadedRelease, lost: Mapping[str, str], moved: int) -> None:
    """Check what a head that is solved again for one more class does to the others.

    Raises:
        LocalTestError: A class of this device would rest, or an image of the self-test moves.
    """
    harm = list(_harm(lost, moved))
    if harm:
        raise LocalTestError(
            f"{names.quoted(name)} must leave the other classes of this device, and the self-test "
            f"of release {base.number}, as they are",
            "; ".join(harm),
            _SHOW,
        )


def _dropped(composed: Composed) -> list[Judged]:
    """Return the states, where an overlay that failed is not asked any more."""
    over = composed.loaded.over
    if over is None or not over.trouble:
        return list(composed.states)
    reason = f"it failed while it answered: {over.trouble[0]}"
    return [
        replace(each, state=SUSPENDED, reason=reason) if each.state == ACTIVE else each
        for each in composed.states
    ]


def checked_name(name: str) -> str:
    """Return the name of a class in the form in which it is stored.

    Raises:
        OptionError: It can be no name.
    """
    wrong = names.fault(name)
    if wrong is not None:
        raise OptionError(
            f"a class must have {names.RULE}", f"{shown(name)}: {wrong}", "Rename it."
        )
    return names.canonical(name)


def _checked_note(note: str) -> str:
    if note and (len(note) > MAX_NOTE or not note.isprintable()):
        raise OptionError(
            f"a note must have at most {MAX_NOTE} printable characters", shown(note), "Shorten it."
        )
    return note


def _checked_by(by: str) -> str:
    if len(by) > MAX_CLASS_NAME or not by.isprintable():
        raise OptionError(
            f"who enrols a class must be named by at most {MAX_CLASS_NAME} printable characters",
            shown(by),
            "Pass another name as `by`.",
        )
    return by


def _readable(
    prepared: Sequence[np.ndarray | ImageError],
) -> tuple[np.ndarray, tuple[tuple[int, str], ...]]:
    """Return the images that could be read, and which could not.

    Raises:
        LimitError: There are too many.
        NotEnoughError: None could be read.
    """
    if len(prepared) > MAX_CALL:
        raise LimitError(
            f"a call must enrol at most {MAX_CALL} images", "more", "Enrol them in several calls."
        )
    skipped = tuple((i, str(e)) for i, e in enumerate(prepared) if isinstance(e, ImageError))
    images = [each for each in prepared if not isinstance(each, ImageError)]
    if not images:
        raise NotEnoughError(
            "a class needs an image that can be read",
            skipped[0][1] if skipped else "no image at all",
            "Show at least one picture of it; five from several sides are a good beginning.",
        )
    return np.stack(images), skipped


def _check_name(name: str, facts: Facts, content: Content, kind: str) -> None:
    """Check that people can tell a name from all others.

    Raises:
        NameTakenError: They cannot, or it is hidden, or a class by name is there already.
    """
    there = {*facts.classes, *(entry.name for entry in content.entries)}
    if kind == NAME and name in there:
        raise NameTakenError(
            "a class that is enrolled by its name must be new",
            names.quoted(name),
            "It answers already; `edgecl-device enrolled remove` takes one of this device away.",
        )
    if name in content.hidden:
        raise NameTakenError(
            "a class that is enrolled must not be hidden",
            names.quoted(name),
            "Show it again with `edgecl-device enrolled suppress --off`, or rename.",
        )
    others = there - {name}
    twin = names.one_name([*sorted(others), name]) if name not in facts.classes else None
    if twin is not None and name in twin:
        raise NameTakenError(
            "a class must have a name of its own",
            names.both(*twin),
            "Spell it as it is, or rename.",
        )


def _check_room(name: str, images: int, content: Content) -> None:
    """Check the limits of a device.

    Raises:
        LimitError: One is reached.
    """
    classes = {entry.name for entry in content.entries} | {name}
    total = images + sum(each.record.images for each in content.kept if each.record is not None)
    for what, found, most in (
        ("classes", len(classes), MAX_CLASSES),
        ("images", total, MAX_IMAGES),
    ):
        if found > most:
            raise LimitError(
                f"a device must have at most {most} {what} of its own",
                str(found),
                "Remove some with `edgecl-device enrolled remove`, or let the workstation learn "
                "them.",
            )


def _report(
    name: str, base: LoadedRelease, facts: Facts, composed: Composed, shown: _Shown
) -> Enrolment:
    """Return what can be said of a class that was put on a release; its new images are its last."""
    enrol, own, count = facts.check(shown.kind), composed.features[name], shown.count
    changed = composed.changed.get(name, 0)
    if composed.solved is not None:
        loo, nearest = _of_head(name, composed.solved, composed.features, count)
        alike = None
    else:
        loo, nearest = _of_rows(name, base, enrol, composed.features, count)
        alike = nearest if shown.images is not None else None
    found = tuple(_warnings(name, own, loo, alike, changed, len(shown.skipped)))
    return Enrolment(
        name, count, shown.skipped, name in facts.classes, tuple(loo), nearest, changed, 0, found
    )


def _of_rows(
    name: str, base: LoadedRelease, enrol: Enrol, features: Mapping[str, np.ndarray], count: int
) -> tuple[list[bool | None], tuple[str, float] | None]:
    """Return whether each new image is recognised by the others, and the class that is nearest."""
    own, others = features[name], _other_rows(name, base, enrol, features)
    loo: list[bool | None] = [None] * count
    if count and len(own) > 1:
        left = means.left_out(own)[-count:]
        new = own[-count:]
        mine = _rows_of(name, base, enrol)
        if len(mine):
            left = np.maximum(left, means.cosines(new, mine).max(axis=1))
        rival = means.cosines(new, others[1]).max(axis=1) if len(others[1]) else np.full(count, -2)
        loo = [bool(a > b) for a, b in zip(left, rival, strict=True)]
    if not len(others[1]):
        return loo, None
    alike = means.cosines(means.mean_row(own)[None], others[1])[0]
    best = int(alike.argmax())
    return loo, (others[0][best], float(alike[best]))


def _of_head(
    name: str, head: Solved, features: Mapping[str, np.ndarray], count: int
) -> tuple[list[bool | None], tuple[str, float] | None]:
    """Return whether each new image is recognised by the others, and the class that is nearest."""
    before = 0
    for each, own in features.items():
        before += len(own)
        if each == name:
            break
    scores = head.left_out[before - count : before]  # n classes
    mine = head.names.index(name)
    rivals = scores.copy()
    rivals[:, mine] = -np.inf
    loo: list[bool | None] = [None] * count
    if len(features[name]) > 1:
        best_rival = rivals.max(axis=1)
        loo = [bool(a > b) for a, b in zip(scores[:, mine], best_rival, strict=True)]
    if len(head.names) == 1:
        return loo, None
    alike = rivals.mean(axis=0)
    best = int(alike.argmax())
    return loo, (head.names[best], float(alike[best]))


def _rows_of(name: str, base: LoadedRelease, enrol: Enrol) -> np.ndarray:
    """Return the rows of a class in the release that count: [k, f]."""
    live = live_rows(base.files.packs)
    rows = base.learned[enrol.tensor].reshape(len(base.rows), -1)
    found: np.ndarray = rows[[a and n == name for a, n in zip(live, base.rows, strict=True)]]
    return found


def _other_rows(
    name: str, base: LoadedRelease, enrol: Enrol, features: Mapping[str, np.ndarray]
) -> tuple[list[str], np.ndarray]:
    """Return the rows of all other classes that answer, and the class of each."""
    live = live_rows(base.files.packs)
    keep = [a and n != name for a, n in zip(live, base.rows, strict=True)]
    rows = base.learned[enrol.tensor].reshape(len(base.rows), -1)[keep]
    owners = [n for n, k in zip(base.rows, keep, strict=True) if k]
    local = {n: means.mean_row(each) for n, each in features.items() if n != name}
    return [*owners, *local], np.concatenate([rows, *(row[None] for row in local.values())])


def _warnings(
    name: str,
    own: np.ndarray,
    loo: Sequence[bool | None],
    nearest: tuple[str, float] | None,
    changed: int,
    skipped: int,
) -> Iterable[str]:
    lost = sum(each is False for each in loo)
    if lost:
        yield f"{lost} of {len(loo)} images would not be recognised from the others: show more"
    if len(own) == len(loo) == 1:
        yield "one image is one view: show more, from several sides"
    if nearest is not None and nearest[1] > means.DUPLICATE:
        yield (
            f"{names.quoted(name)} is nearly {names.quoted(nearest[0])} "
            f"(cosine {nearest[1]:.3f}): are they one class?"
        )
    twins = means.twins(own)
    if 2 * twins > len(own) > 1:
        yield f"{twins} of {len(own)} images show nearly the same view: take them from other sides"
    if changed:
        yield f"it takes {changed} images of the release's self-test"
    if skipped:
        yield f"{skipped} images could not be read"
