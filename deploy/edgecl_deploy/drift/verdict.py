"""Says what was seen: is it the camera, the world or the model; since when; what to do.

The alarm has a law (`detector`). The cause is a guess by rules, and the evidence is shown with it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgecl_deploy.drift.measures import Rate
from edgecl_deploy.drift.state import ATYPICAL, LEAST, TYPICAL, Camera, State

CAMERA, WORLD, MODEL = "camera", "world", "model"
_FROZEN = 20  # images in a row that are the same: a sensor has noise
_UNREADABLE = 0.05  # share of images, above which it is a fault
_SOON = 100  # images that count, within which a change came with the release
_QUIET = 100  # images that count, after which a release that gave no alarm was at home here
_DARK, _BRIGHT = 5.0, 250.0  # of 255
_LEAST_BRIGHTNESS, _LEAST_SHARPNESS = 4.0, 0.1  # the least spreads of a camera
_CAMERA_ADVICE = (
    "Look at a picture of the camera: clean the lens, bring back light and focus, plug it in anew.",
)
_WORLD_ADVICE = (
    "Look at the pictures that are answered `unknown`.",
    "Enrol what is new with `edgecl-device enrol`, or learn it on the workstation and publish it.",
)
_RELEASE_ADVICE = (
    "Stop the roll-out with `edgecl channel halt`, so that no further device takes the release.",
    "Go back on this device with `edgecl-device rollback`.",
)
_LOCAL_ADVICE = (
    "Look at what was enrolled last with `edgecl-device enrolled list`; remove it if it is wrong.",
)
_ACKNOWLEDGE = "When it is done, or all is as it should be: `edgecl-device drift STORE --reset`."


@dataclass(frozen=True)
class Drift:
    """What was seen of the images of what answers now.

    Attributes:
        cause: `camera`, `world` or `model`; empty if nothing was found.
        alarm: Whether the evidence has crossed the threshold. It stays until it is acknowledged or
            another release or local generation answers.
        since: When the change began, by the best guess: seconds since 1970. None if none was found.
        alarmed: When the threshold was crossed first, None if it was not.
        reasons: The evidence, in words.
        advice: What to do, in words.
        version: What answers: `7`, or `7.3` with the third state of this device's classes.
        evidence: log10 of 1 + the mean of R, by statistic: `atypical` gives the alarm, `typical` is
            information.
        alarms: By statistic, whether it has crossed the threshold.
        began: When it began to answer; seconds since 1970.
        updated: When an image was counted last; 0 if none was.
        answered: Images that it was asked about.
        images: Of these, those that were counted.
        unknown: The share that is of no known class, among the last 500 to 1,000 that were counted;
            None if the release judges none.
        histogram: Counts of the typicality in 20 bins from 0 to 1; None under 20 images.
        classes: Counts of the answers, at most 100; None under 20 images.
        other: Counts of further classes.
        shift: How far features have moved together (`Shift.ratio`), as the process that answers
            knows it; None in another one, under 20 images, and where packs have no scores.
    """

    cause: str
    alarm: bool
    since: float | None
    alarmed: float | None
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    version: str
    evidence: Mapping[str, float]
    alarms: Mapping[str, bool]
    began: float
    updated: float
    answered: int
    images: int
    unknown: Rate | None
    histogram: tuple[int, ...] | None
    classes: Mapping[str, int] | None
    other: int
    shift: float | None = None


def verdict(state: State, shift: float | None = None) -> Drift:
    """Say what a state means.

    Args:
        shift: As of `Drift`.
    """
    atypical = state.tracks[ATYPICAL]
    alarm = atypical.alarm
    faults = tuple(_faults(state.camera))
    signs = (*faults, *_signs(state.camera)) if alarm is not None else faults
    cause = CAMERA if signs else ""
    if alarm is not None and not signs:
        cause = MODEL if _came_with_it(state) else WORLD
    begun = alarm.since if alarm is not None else state.updated if faults else None
    rate = state.unknown.rate
    return Drift(
        cause=cause,
        alarm=alarm is not None,
        since=begun,
        alarmed=None if alarm is None else alarm.time,
        reasons=tuple(_reasons(state, signs)),
        advice=_advice(cause, state),
        version=state.mark.version,
        evidence={name: round(each.evidence, 3) for name, each in state.tracks.items()},
        alarms={name: each.alarm is not None for name, each in state.tracks.items()},
        began=state.began,
        updated=state.updated,
        answered=state.answered,
        images=state.images,
        unknown=rate if rate.images else None,
        histogram=state.histogram if sum(state.histogram) >= LEAST else None,
        classes=dict(state.classes) if state.images >= LEAST else None,
        other=state.other if state.images >= LEAST else 0,
        shift=None if shift is None else round(shift, 3),
    )


def _faults(camera: Camera) -> Iterator[str]:
    """Yield what is a fault by itself."""
    if camera.same >= _FROZEN:
        yield f"the last {camera.same} images that were looked at are the same, pixel by pixel"
    rate = camera.unreadable.rate
    if rate.low > _UNREADABLE:
        yield f"{rate.share:.0%} of the last {rate.images} images could not be read"


def _signs(camera: Camera) -> Iterator[str]:
    """Yield what explains an alarm, though it is no fault by itself: the night is dark, too."""
    light, sharp = camera.brightness, camera.sharpness
    if light.count and not _DARK <= light.recent <= _BRIGHT:
        yield f"the last images are {'black' if light.recent < _DARK else 'white'}"
    elif (turn := light.shift(_LEAST_BRIGHTNESS)) != 0:
        yield (
            f"the last images are {'brighter' if turn > 0 else 'darker'} than the first: "
            f"{light.recent:.0f} in place of {light.mean:.0f} of 255"
        )
    if sharp.shift(_LEAST_SHARPNESS) < 0:
        yield (
            f"the last images are less sharp than the first: {sharp.recent:.1f} in place of "
            f"{sharp.mean:.1f}"
        )


def _came_with_it(state: State) -> bool:
    """Return whether the change came with what answers now, and what was before was at home."""
    alarm, before = state.tracks[ATYPICAL].alarm, state.before
    if alarm is None or before is None or before.alarm:
        return False
    return alarm.place <= _SOON and before.images >= _QUIET


def _reasons(state: State, signs: tuple[str, ...]) -> Iterator[str]:
    yield from signs
    atypical, typical, before = state.tracks[ATYPICAL], state.tracks[TYPICAL], state.before
    if atypical.alarm is not None:
        yield (
            f"images are less like those that release {state.mark.version} learned: evidence "
            f"10^{atypical.evidence:.1f} of {atypical.images} images"
        )
        if before is not None and atypical.alarm.place <= _SOON:
            yield (
                f"it began with {state.mark.version}; {before.version} "
                + ("had given an alarm, too" if before.alarm else "gave no alarm")
                + f" in {before.images} images"
            )
        elif before is None and atypical.alarm.place <= _SOON:
            yield "it was so from the first images on"
    elif state.images and not atypical.images:
        yield (
            f"nothing is tested: release {state.mark.version} has no scores of its images; release "
            "the packs of a run that was made by this version"
        )
    if typical.alarm is not None:
        yield "nearly all images are as typical as can be: a still picture, or too few were learned"
    rate = state.unknown.rate
    if rate.images:
        yield (
            f"{rate.share:.1%} of the last {rate.images} images are of no known class "
            f"({rate.low:.1%} to {rate.high:.1%})"
        )


def _advice(cause: str, state: State) -> tuple[str, ...]:
    if not cause:
        return ()
    if cause == CAMERA:
        return (*_CAMERA_ADVICE, _ACKNOWLEDGE)
    if cause == WORLD:
        return (*_WORLD_ADVICE, _ACKNOWLEDGE)
    before = state.before
    same = before is not None and before.version.partition(".")[0] == str(state.mark.release)
    return (*(_LOCAL_ADVICE if same else _RELEASE_ADVICE), _ACKNOWLEDGE)
