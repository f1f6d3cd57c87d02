"""`Classifier.stream`: frame by frame, without an end, over swaps."""

import itertools

import numpy as np
import pytest

from edgecl_deploy import Classifier
from edgecl_deploy.errors import OptionError


@pytest.fixture
def classifier(world):
    return Classifier.open(world.bundle_path, world.release("red", "green"))


def camera(colour_picture, taken):
    """Yield pictures for ever, and count them in `taken`."""
    for name in itertools.cycle(("red", "green")):
        taken.append(name)
        yield colour_picture(name)


def test_an_endless_camera_is_answered_frame_by_frame(classifier, colour_picture):
    taken = []
    answers = classifier.stream(camera(colour_picture, taken), ahead=0)
    assert taken == []
    for count in range(1, 6):
        assert next(answers).label == taken[-1]
        assert len(taken) == count


def test_without_ahead_a_batch_waits_for_so_many_frames_and_no_more(classifier, colour_picture):
    taken = []
    answers = classifier.stream(camera(colour_picture, taken), top_k=1, batch=20, ahead=0)
    labels = [next(answers).label for _ in range(20)]
    assert (labels, len(taken)) == (taken, 20)


def test_a_short_last_batch_is_answered(classifier, colour_picture):
    frames = [colour_picture("red")] * 5
    assert [each.label for each in classifier.stream(frames, batch=3)] == ["red"] * 5
    assert list(classifier.stream([])) == []


@pytest.mark.parametrize("batch", [1, 2])
def test_a_swap_takes_effect_at_the_next_frame(world, classifier, colour_picture, batch):
    second = world.made(world.pack(0, ("blue",)), number=2).write(world.fresh())

    def frames():
        for number in range(6):
            if number == 4:
                classifier.swap(second)
            yield colour_picture("red")

    answers = list(classifier.stream(frames(), batch=batch, ahead=0))
    assert [each.release for each in answers] == [1, 1, 1, 1, 2, 2]
    assert [each.label for each in answers] == ["red"] * 4 + ["blue"] * 2


def test_a_bad_frame_is_one_answer(classifier, colour_picture):
    frames = [b"no image", colour_picture("green"), np.zeros((4, 4, 7), np.uint8)]
    answers = list(classifier.stream(frames, top_k=1))
    assert [each.label for each in answers] == [None, "green", None]
    assert all(each.error for each in answers[::2])


def test_predict_and_stream_agree(classifier):
    frames = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    assert list(classifier.stream(frames)) == classifier.predict(frames)


def test_a_wrong_call_is_refused_at_once(classifier):
    for one in ("a.jpg", b"bytes", np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(OptionError, match=r"Call stream\(\[image\]\)"):
            classifier.stream(one)
    with pytest.raises(OptionError, match="Ask for one class or more"):
        classifier.stream([], top_k=0)
    with pytest.raises(OptionError, match="Leave it out for 1"):
        classifier.stream([], batch=0)
    for call in (classifier.stream, classifier.predict):
        with pytest.raises(OptionError, match=r"ahead must be at least 0.*Leave it out for 1"):
            call([], ahead=-1)
