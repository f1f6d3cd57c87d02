"""Which images count, and what a watch says of them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from tests.deploy.support.drifting import FIRST, SECOND, Stream, answer, noise, uniform

from edgecl_deploy.drift.state import ATYPICAL, LEAST, MAX_LABELS, TYPICAL, Mark
from edgecl_deploy.drift.verdict import verdict
from edgecl_deploy.drift.watch import SKIPPED

# -- which images count ---------------------------------------------------------------------------


def test_the_first_images_of_a_release_do_not_count():
    stream = Stream().tell([0.5] * (SKIPPED + 3))
    assert (stream.state.answered, stream.state.images) == (SKIPPED + 3, 3)


def test_images_that_are_near_in_time_count_once_for_each_class():
    stream = Stream(every=10.0).skip().tell([0.5] * 100, gap=0.1)
    assert stream.state.images == 1  # ten seconds
    stream.tell([0.5], gap=1.5).tell([0.5], gap=1.5, label="blue").tell([0.5], gap=1.5)
    assert (stream.state.images, stream.state.classes) == (3, {"red": 2, "blue": 1})


def test_an_object_between_many_classes_counts_at_most_once_a_second():
    stream = Stream(every=10.0).skip()
    for i in range(300):
        stream.tell([0.01], gap=1 / 30, label=f"class {i}")
    assert stream.state.images <= 10


def test_repeated_frames_give_no_alarm_because_they_are_thinned():
    """Half a minute of one object, of which the release is not sure, at 30 images a second."""
    thinned = Stream(every=10.0).skip().tell([0.2] * 900, gap=1 / 30)
    every_frame = Stream(every=0.0).skip().tell([0.2] * 900, gap=1 / 30)
    assert not verdict(thinned.state).alarm
    assert verdict(every_frame.state).alarm


def test_the_same_picture_is_one_observation():
    stream = Stream(every=0.0).skip().tell([0.2] * 900, picture=lambda _: noise(7))
    assert (stream.state.images, stream.state.camera.repeated) == (1, 899)
    found = verdict(stream.state)
    assert (found.cause, found.alarm) == ("camera", False)
    assert found.reasons[0] == (
        "the last 900 images that were looked at are the same, pixel by pixel"
    )


def test_features_that_move_together_are_told_from_those_that_scatter():
    rng = np.random.default_rng(0)
    stream = Stream(every=0.0).skip()

    def tell(count, moved):
        for number in range(count):
            stream.time += 20
            away = rng.normal(0, 1, 16) + moved
            found = replace(answer(FIRST, typical=0.5), away=away)
            stream.watch.saw(FIRST, [found], [noise(rng.integers(2**32) + number)])

    tell(19, 0.0)
    assert stream.watch.shift is None
    tell(381, 0.0)
    assert stream.watch.shift == pytest.approx(1 / 20, rel=0.5)
    stream.watch.saw(FIRST, [replace(answer(FIRST), away=np.full(16, np.nan))], [noise(1)])
    stream.watch.acknowledge()
    tell(400, 2.0)
    assert stream.watch.shift == pytest.approx((4 / 5) ** 0.5, rel=0.1)
    stream.watch.follow(SECOND)
    assert stream.watch.shift is None


def test_another_release_or_local_generation_begins_anew():
    stream = Stream(run_length=100).skip().tell(uniform(150, most=0.2))
    assert verdict(stream.state).alarm
    stream.mark = replace(FIRST, local=1)
    stream.tell([0.5])
    state = stream.state
    assert (state.answered, state.images, state.tracks[ATYPICAL].images) == (1, 0, 0)
    assert state.tracks[ATYPICAL].evidence == 0.0
    assert (state.before.version, state.before.images, state.before.alarm) == ("1", 150, True)
    assert state.camera.brightness.count == 150  # the camera is the same one
    stream.skip().tell([0.01])
    assert stream.state.tracks[ATYPICAL].images == 1


def test_a_late_answer_of_the_release_before_does_not_count():
    stream = Stream(SECOND).skip()
    stream.time += 60
    stream.watch.saw(SECOND, [answer(FIRST)], [noise(1)])
    assert (stream.state.mark, stream.state.images) == (SECOND, 0)


def test_an_error_ends_the_counting_and_nothing_else(caplog):
    stream = Stream().skip()
    stream.time += 60
    for _ in range(3):
        stream.watch.saw(FIRST, [answer(FIRST)], [np.zeros(3, np.uint8)])
        stream.time += 60
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("drift-ended: images are no longer counted")


def test_classes_are_bounded():
    stream = Stream(every=0.0).skip()
    for i in range(MAX_LABELS + 30):
        stream.tell([0.5], label=f"class {i}")
    assert (len(stream.state.classes), stream.state.other) == (MAX_LABELS, 30)


def test_many_threads_lose_no_count():
    stream = Stream(every=0.0).skip()

    def tell(seed):
        for i in range(200):
            stream.watch.saw(FIRST, [answer(FIRST, typical=0.5)] * 3, [noise(1000 * seed + i)] * 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tell, range(4)))
    assert stream.state.answered == SKIPPED + 4 * 200 * 3
    assert stream.state.images + stream.state.camera.repeated == 800


def test_the_least_typical_pictures_are_kept_if_somebody_asked():
    assert Stream().skip().tell(uniform(50)).watch.pictures == ()
    stream = Stream(pictures=3).skip().tell([0.5, 0.1, 0.3, 0.1, 0.9, 0.1, 0.1])
    kept = stream.watch.pictures
    assert [(each.typical, each.time) for each in kept] == [
        (0.1, 1000 + 20.0 * place)
        for place in (7, 6, 4)  # the newest of those that are alike
    ]
    assert (kept[0].image == noise(7)).all()
    stream.watch.settings = replace(stream.watch.settings, pictures=1)
    assert len(stream.watch.pictures) == 1
    stream.mark = SECOND
    assert stream.tell([0.5]).watch.pictures == ()


# -- what it means --------------------------------------------------------------------------------


def test_nothing_is_found_while_nothing_changes():
    found = verdict(Stream().skip().tell(uniform(2000)).state)
    assert (found.cause, found.alarm, found.since, found.advice) == ("", False, None, ())
    assert (found.images, found.answered) == (2000, 2000 + SKIPPED)
    assert sum(found.histogram) == found.classes["red"] == 2000
    assert found.unknown.images == 1000
    assert found.unknown.low < found.unknown.share < found.unknown.high
    assert found.unknown.share == pytest.approx(0.05, abs=0.02)


def test_histograms_of_few_images_are_not_shown():
    found = verdict(Stream().skip().tell(uniform(LEAST - 1)).state)
    assert found.histogram is None
    assert found.classes is None
    assert verdict(Stream().skip().tell(uniform(LEAST)).state).histogram is not None


def test_the_world_changes():
    stream = Stream(run_length=1e4).skip().tell(uniform(400))
    change = stream.time
    found = verdict(stream.tell(uniform(300, 1, most=0.4)).state)
    assert (found.cause, found.alarm) == ("world", True)
    assert abs(found.since - change) < 60 * 20.0  # of the images, one in 20 s
    assert found.since < found.alarmed < stream.time
    assert "edgecl-device enrol" in " ".join(found.advice)
    assert found.evidence[ATYPICAL] > 4.0
    again = verdict(stream.tell(uniform(2000, 2)).state)  # it stays until it is acknowledged
    assert (again.alarm, again.alarmed) == (True, found.alarmed)
    stream.watch.acknowledge()
    assert not verdict(stream.state).alarm
    assert stream.state.answered > SKIPPED  # nothing is skipped again


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (lambda i: noise(i, 20.0), "darker than the first"),
        (lambda i: noise(i, 128.0, 2.0), "less sharp than the first"),
        (lambda i: noise(i, 2.0, 1.0), "the last images are black"),
    ],
)
def test_the_camera_changes(picture, words):
    stream = Stream(run_length=1e4).skip().tell(uniform(400))
    stream.tell(uniform(100, 3), picture=picture)
    assert verdict(stream.state).cause == ""  # a night is no fault while its images are typical
    found = verdict(stream.tell(uniform(300, 1, most=0.4), picture=picture).state)
    assert (found.cause, found.alarm) == ("camera", True)
    assert any(words in each for each in found.reasons)
    assert "clean the lens" in found.advice[0]


def test_images_that_cannot_be_read_are_the_cameras_fault():
    stream = Stream().skip().tell(uniform(100))
    found = verdict(stream.tell([0.5] * 60, label=None).state)
    assert (found.cause, found.alarm) == ("camera", False)
    assert "could not be read" in found.reasons[0]


def test_the_model_changes():
    stream = Stream(run_length=1e4).skip().tell(uniform(400))
    stream.mark = SECOND
    found = verdict(stream.skip().tell(uniform(200, 1, most=0.4)).state)
    assert (found.cause, found.version) == ("model", "2")
    assert "it began with 2; 1 gave no alarm in 400 images" in found.reasons
    assert "edgecl channel halt" in found.advice[0]
    stream.mark = Mark(SECOND.digest, 2, 5)
    stream.skip().tell(uniform(400))
    stream.mark = Mark(SECOND.digest, 2, 6)
    found = verdict(stream.skip().tell(uniform(200, 1, most=0.4)).state)
    assert (found.cause, found.version) == ("model", "2.6")
    assert "enrolled remove" not in found.advice[0]
    assert "enrolled list" in found.advice[0]


def test_a_release_that_was_never_at_home_is_not_blamed_on_the_next():
    stream = Stream(run_length=1e4).skip().tell(uniform(200, most=0.4))
    assert verdict(stream.state).cause == "world"
    assert "it was so from the first images on" in verdict(stream.state).reasons
    stream.mark = SECOND
    assert verdict(stream.skip().tell(uniform(200, 1, most=0.4)).state).cause == "world"


def test_nothing_is_tested_where_nothing_tells_known_from_unknown():
    stream = Stream().skip()
    for i in range(30):
        stream.time += 60
        stream.watch.saw(FIRST, [answer(FIRST, known=None)], [noise(i)])
    found = verdict(stream.state)
    assert (found.unknown, found.histogram, found.images) == (None, None, 30)
    assert "nothing is tested" in found.reasons[0]


def test_a_still_picture_with_noise_is_too_typical():
    stream = Stream(run_length=1e3).skip().tell([0.99] * 200)
    found = verdict(stream.state)
    assert found.alarms == {ATYPICAL: False, TYPICAL: True}
    assert not found.alarm
    assert "as typical as can be" in found.reasons[0]
    assert not verdict(Stream(run_length=1e3).skip().tell(uniform(2000)).state).alarms[TYPICAL]
