"""What is remembered of the images of a release, and the document that holds it.

It holds counts and sums: no image, no feature, nothing of a single image.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from edgecl_deploy.drift.detector import BETS, Detector, threshold
from edgecl_deploy.drift.measures import Baseline, Window
from edgecl_deploy.manifest.fields import Fields
from edgecl_deploy.manifest.limits import MAX_AXIS, MAX_INTEGER
from edgecl_deploy.store.sealed import seal, unseal

FORMAT = "edgecl-drift/1"
LARGEST = 128 * 1024  # bytes of the document
BINS = 20  # of the histogram of the typicality
MAX_LABELS = 100  # classes that are counted each for itself
LEAST = 20  # images, of which no fewer are shown in a histogram
ATYPICAL, TYPICAL = "atypical", "typical"  # the two statistics
_DETECTORS = {ATYPICAL: Detector(0.5), TYPICAL: Detector(0.1)}
_MOST = 1e12  # of a sum: no stream of images comes near
_LATEST = 253_402_300_799  # the end of the year 9999: a later time has no date


@dataclass(frozen=True)
class Mark:
    """What answers: another one begins anew.

    Attributes:
        digest: Of release.json.
        release: Its number.
        local: The generation of this device's own classes; 0 for none.
    """

    digest: str
    release: int
    local: int = 0

    @property
    def version(self) -> str:
        """`7`, or `7.3` with the third state of this device's classes."""
        return f"{self.release}.{self.local}" if self.local else str(self.release)


@dataclass(frozen=True)
class Alarm:
    """The first crossing of the threshold; it stays until somebody takes it back.

    Attributes:
        time: Seconds since 1970.
        since: When what led to it began, by the best guess.
        place: How many images had been counted by then.
    """

    time: float
    since: float
    place: int


@dataclass(frozen=True)
class Track:
    """One detector on its way.

    Attributes:
        state: log(1 + R) of each bet.
        score: The evidence since its last low.
        since: When that was; seconds since 1970.
        place: How many images had been counted by then.
        images: How many it has seen.
        alarm: None until the threshold is crossed.
    """

    state: tuple[float, ...] = (0.0,) * len(BETS)
    score: float = 0.0
    since: float = 0.0
    place: int = 0
    images: int = 0
    alarm: Alarm | None = None

    def having(self, statistic: str, number: float, run_length: float, now: float) -> "Track":
        """Return it after one more number.

        Args:
            statistic: Which of the two it is.
            number: In [0, 1].
            run_length: Images between false alarms.
            now: Seconds since 1970.
        """
        detector = _DETECTORS[statistic]
        state = detector.step(np.array(self.state), number)
        score = detector.recent(self.score, number)
        begins = self.score == 0.0 or score == 0.0
        since, place = (now, self.images) if begins else (self.since, self.place)
        alarm = self.alarm
        if alarm is None and detector.evidence(state) >= threshold(run_length):
            alarm = Alarm(now, since, place)
        return Track(tuple(state.tolist()), score, since, place, self.images + 1, alarm)

    @property
    def evidence(self) -> float:
        """log10 of 1 + the mean of R: 6 crosses the threshold of one false alarm in 1e6."""
        return float(Detector().evidence(np.array(self.state)) / np.log(10.0))


@dataclass(frozen=True)
class Camera:
    """What the images themselves look like, whatever answers.

    Attributes:
        brightness: Of the images that were counted.
        sharpness: Of them.
        same: How many images in a row were the same, pixel by pixel; the last one among them.
        repeated: How many were the same as the one before.
        unreadable: Of the images that came: whether they could not be read.
    """

    brightness: Baseline = field(default_factory=Baseline)
    sharpness: Baseline = field(default_factory=Baseline)
    same: int = 0
    repeated: int = 0
    unreadable: Window = field(default_factory=Window)


@dataclass(frozen=True)
class Before:
    """What came of the release, or local generation, that answered before."""

    version: str
    images: int
    alarm: bool


@dataclass(frozen=True)
class State:
    """All that is remembered.

    Attributes:
        mark: What answers.
        began: When it began to; seconds since 1970.
        updated: When an image was counted last.
        answered: Images that it was asked about.
        images: Of these, those that were counted: the others are too near in time.
        unknown: Of the counted ones: whether they are of no class.
        tracks: The two detectors by name.
        histogram: Counts of the typicality, from 0 to 1.
        classes: Counts of the answers.
        other: Counts of the classes beyond the first hundred.
        camera: What the images look like.
        before: What answered before; None if nothing is known of it.
    """

    mark: Mark
    began: float
    updated: float = 0.0
    answered: int = 0
    images: int = 0
    unknown: Window = field(default_factory=Window)
    tracks: Mapping[str, Track] = field(
        default_factory=lambda: {ATYPICAL: Track(), TYPICAL: Track()}
    )
    histogram: tuple[int, ...] = (0,) * BINS
    classes: Mapping[str, int] = field(default_factory=dict)
    other: int = 0
    camera: Camera = field(default_factory=Camera)
    before: Before | None = None

    def followed_by(self, mark: Mark, now: float) -> "State":
        """Return the state in which another release begins; the camera stays the same."""
        before = self.before
        if self.images:
            alarm = self.tracks[ATYPICAL].alarm is not None
            before = Before(self.mark.version, self.images, alarm)
        return State(mark, now, camera=self.camera, before=before)

    def acknowledged(self, now: float) -> "State":
        """Return the state in which an alarm is taken back: the same release begins anew."""
        return State(self.mark, now, answered=self.answered)

    def having(
        self,
        label: str,
        known: bool | None,
        typicality: float | None,
        run_length: float,
        now: float,
    ) -> "State":
        """Return it with one more image that counts.

        Args:
            label: Its class.
            known: Whether it is of a known class; None where nothing tells.
            typicality: The highest p-value over the classes; None where there is none.
            run_length: Images between false alarms.
            now: Seconds since 1970.
        """
        classes, other = dict(self.classes), self.other
        if label in classes or len(classes) < MAX_LABELS:
            classes[label] = classes.get(label, 0) + 1
        else:
            other += 1
        tracks, histogram = self.tracks, self.histogram
        if typicality is not None:
            u = min(max(typicality, 0.0), 1.0)
            numbers = {ATYPICAL: u, TYPICAL: 1.0 - u}
            tracks = {
                name: each.having(name, numbers[name], run_length, now)
                for name, each in tracks.items()
            }
            place = min(int(u * BINS), BINS - 1)
            histogram = (*histogram[:place], histogram[place] + 1, *histogram[place + 1 :])
        return replace(
            self,
            updated=now,
            images=self.images + 1,
            unknown=self.unknown if known is None else self.unknown.having(int(not known)),
            tracks=tracks,
            histogram=histogram,
            classes=classes,
            other=other,
        )

    def to_bytes(self) -> bytes:
        """Write the document."""
        return seal(FORMAT, {**asdict(self), "histogram": list(self.histogram)})


def parse_state(data: bytes) -> State:
    """Read the document; whoever may write it may be another user, so each field has its limits."""
    fields = unseal(data, "drift.json", FORMAT)
    mark = fields.child("mark")
    tracks = fields.child("tracks")
    classes = fields.child("classes")
    listed = Fields({"classes": list(classes.unknown())}, fields.where)
    names = listed.names("classes", MAX_LABELS)
    return State(
        mark=Mark(
            mark.sha256("digest"), mark.integer("release", 1, MAX_AXIS), _count(mark, "local")
        ),
        began=_time(fields, "began"),
        updated=_time(fields, "updated"),
        answered=_count(fields, "answered"),
        images=_count(fields, "images"),
        unknown=_window(fields.child("unknown")),
        tracks={name: _track(tracks.child(name)) for name in _DETECTORS},
        histogram=_histogram(fields),
        classes={name: _count(classes, name) for name in names},
        other=_count(fields, "other"),
        camera=_camera(fields.child("camera")),
        before=fields.optional("before", lambda key: _before(fields.child(key))),
    )


def _count(fields: Fields, key: str) -> int:
    return fields.integer(key, 0, MAX_INTEGER)


def _time(fields: Fields, key: str) -> float:
    return fields.number(key, 0, _LATEST)


def _levels(fields: Fields) -> tuple[float, ...]:
    values = fields.items("state", len(BETS))
    if len(values) != len(BETS):
        raise fields.fail("state", f"a list of {len(BETS)} numbers", len(values))
    return tuple(Fields({"state": each}, fields.where).number("state", 0, _MOST) for each in values)


def _histogram(fields: Fields) -> tuple[int, ...]:
    counts = fields.items("histogram", BINS)
    if len(counts) != BINS:
        raise fields.fail("histogram", f"a list of {BINS} counts", len(counts))
    return tuple(_count(Fields({"histogram": each}, fields.where), "histogram") for each in counts)


def _window(fields: Fields) -> Window:
    images, of = _count(fields, "images"), _count(fields, "of")
    return Window(fields.integer("hits", 0, images), images, fields.integer("before", 0, of), of)


def _baseline(fields: Fields) -> Baseline:
    return Baseline(
        _count(fields, "count"),
        fields.number("mean", -_MOST, _MOST),
        fields.number("squares", 0, _MOST),
        fields.number("recent", -_MOST, _MOST),
    )


def _camera(fields: Fields) -> Camera:
    return Camera(
        _baseline(fields.child("brightness")),
        _baseline(fields.child("sharpness")),
        _count(fields, "same"),
        _count(fields, "repeated"),
        _window(fields.child("unreadable")),
    )


def _track(fields: Fields) -> Track:
    return Track(
        _levels(fields),
        fields.number("score", 0, _MOST),
        _time(fields, "since"),
        _count(fields, "place"),
        _count(fields, "images"),
        fields.optional("alarm", lambda key: _alarm(fields.child(key))),
    )


def _alarm(fields: Fields) -> Alarm:
    return Alarm(_time(fields, "time"), _time(fields, "since"), _count(fields, "place"))


def _before(fields: Fields) -> Before:
    return Before(fields.text("version"), _count(fields, "images"), fields.flag("alarm"))
