"""Images that are prepared while others run: the same answers, bounded, and no thread left."""

import itertools
import threading
import time
import weakref
from contextlib import closing

import numpy as np
import pytest

from edgecl_deploy import Classifier, runtime
from edgecl_deploy.pipeline import Ahead, Pace, answers

NAMES = ("red", "green", "blue", "white")


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert [t.name for t in threading.enumerate() if t.name == "edgecl-prepare"] == []


@pytest.fixture(autouse=True, params=[1, 4], ids=["one-core", "four-cores"])
def cores(monkeypatch, request):
    monkeypatch.setattr("edgecl_deploy.pipeline.usable_cores", lambda: request.param)
    return request.param


@pytest.fixture
def classifier(world):
    return Classifier.open(world.bundle_path, world.release("red", "green", "blue"), threads=1)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (100, 24, 31, 3), dtype=np.uint8)


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert (one.label, one.error, one.release) == (other.label, other.error, other.release)
        if one.error is None:
            scores = [[score for _, score in each.top] for each in (one, other)]
            np.testing.assert_allclose(*scores, atol=1e-6, rtol=0)
    return True


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("batch", [1, 7, 32])
def test_the_answers_are_those_of_one_thread(classifier, frames, ahead, batch):
    wanted = classifier.predict(frames, ahead=0)
    assert classifier.predict(frames, ahead=ahead) == wanted  # the same runs: to the bit
    assert same(classifier.stream(frames, batch=batch, ahead=ahead), wanted)


def test_three_broken_images_among_a_hundred(classifier, frames):
    images = [*frames]
    broken = {3: b"no image", 40: "/no/such/file.jpg", 41: np.zeros((4, 4, 7), np.uint8)}
    for index, image in broken.items():
        images[index] = image
    wanted = classifier.predict(images, ahead=0)
    for found in (classifier.predict(images), list(classifier.stream(images, batch=8))):
        assert same(found, wanted)
        assert {i for i, each in enumerate(found) if each.error} == set(broken)


class Alive:
    """Counts the prepared images that are held anywhere."""

    def __init__(self, monkeypatch):
        self.now = self.most = 0
        self._lock = threading.Lock()
        self._prepare = runtime.prepare
        monkeypatch.setattr(runtime, "prepare", self.prepare)

    def prepare(self, *arguments, **options):
        with self._lock:
            self.now += 1  # from when it is begun
            self.most = max(self.most, self.now)
        image = self._prepare(*arguments, **options)
        weakref.finalize(image, self._gone)
        return image

    def _gone(self):
        with self._lock:
            self.now -= 1


def slow_run(monkeypatch, seconds):
    """Make every run take longer; return the list of how many images each has."""
    runs, predict = [], runtime.LoadedRelease.predict

    def slowly(loaded, images, *options):
        runs.append(len(images))
        time.sleep(seconds)
        return predict(loaded, images, *options)

    monkeypatch.setattr(runtime.LoadedRelease, "predict", slowly)
    return runs


@pytest.mark.parametrize("slow", ["run", "prepare", "reader"])
@pytest.mark.parametrize("batch", [1, 4])
def test_at_most_two_batches_are_alive(classifier, frames, monkeypatch, slow, batch):
    alive = Alive(monkeypatch)
    if slow == "run":
        slow_run(monkeypatch, 0.005)
    if slow == "prepare":
        prepare = runtime.prepare
        monkeypatch.setattr(
            runtime, "prepare", lambda *a, **k: time.sleep(0.001) or prepare(*a, **k)
        )
    for _ in classifier.stream(frames, batch=batch):
        time.sleep(0.001 if slow == "reader" else 0)
    assert alive.most <= 2 * batch
    assert slow != "run" or alive.most > batch  # some were prepared while others ran
    assert alive.now == 0


def test_predict_has_at_most_two_batches_too(classifier, frames, monkeypatch):
    alive = Alive(monkeypatch)
    runs = slow_run(monkeypatch, 0.05)
    classifier.predict(np.concatenate([frames] * 3))
    assert 32 < alive.most <= 64
    assert runs == [32] * 9 + [12]


def test_a_camera_is_read_ahead_by_the_bound_and_no_further(classifier, colour_picture):
    taken = []

    def camera():
        for name in itertools.cycle(NAMES[:3]):
            taken.append(name)
            yield colour_picture(name)

    with closing(classifier.stream(camera(), batch=3, ahead=2)) as stream:
        assert taken == []  # nothing is taken before an answer is asked for
        for count in range(1, 30):
            assert next(stream).label == taken[count - 1]
            assert len(taken) <= count + 2 + 2 * 3
    time.sleep(0.02)
    assert len(taken) <= 29 + 2 + 2 * 3


def test_a_frame_never_waits_for_others(classifier, colour_picture):
    shown = threading.Semaphore(1)  # the next frame comes when the answer to this one was read

    def camera():
        for name in NAMES[:3] * 4:
            assert shown.acquire(timeout=30)
            yield colour_picture(name)

    labels = []
    for answer in classifier.stream(camera(), batch=8):
        labels.append(answer.label)
        shown.release()
    assert labels == list(NAMES[:3]) * 4


def test_what_waits_is_run_at_once(classifier, frames, monkeypatch):
    runs = slow_run(monkeypatch, 0.01)
    assert len(list(classifier.stream(frames, batch=8))) == 100
    assert sum(runs) == 100
    assert max(runs) == 8
    assert len(runs) < 50


def test_a_stream_that_is_left_ends_its_threads_and_takes_no_more(classifier, frames):
    taken = itertools.count()

    def endless():
        for frame in itertools.cycle(frames):
            next(taken)
            yield frame

    for answer in classifier.stream(endless(), batch=4):
        assert answer.error is None
        break
    del answer
    after = next(taken)
    time.sleep(0.02)
    assert next(taken) == after + 1  # nothing was taken meanwhile
    never = classifier.stream(endless())
    never.close()
    assert next(taken) == after + 2


@pytest.mark.parametrize("ahead", [0, 1])
def test_an_error_of_the_iterable_comes_after_the_answers_before_it(classifier, frames, ahead):
    def failing():
        yield from frames[:40]
        raise ValueError("the cable was pulled")

    with pytest.raises(ValueError, match="the cable was pulled"):
        classifier.predict(failing(), ahead=ahead)
    found = []
    with pytest.raises(ValueError, match="the cable was pulled"):
        found.extend(classifier.stream(failing(), ahead=ahead))  # extend keeps what came
    assert same(found, classifier.predict(frames[:40]))


def test_an_error_of_preparing_is_raised_in_its_place(cores):
    def prepare(number):
        time.sleep(0.001 * (number % 3))
        if number in {5, 6}:
            raise MemoryError(str(number))
        return number

    found = []
    with pytest.raises(MemoryError, match="5"):
        found.extend(answers(iter(range(9)), prepare, lambda some: some, Pace(2, 2, whole=True)))
    assert found == [0, 1, 2, 3, 4]


def test_an_error_of_a_run_ends_the_threads(frames):
    def run(ready):
        raise RuntimeError("the engine is gone")

    with pytest.raises(RuntimeError, match="the engine is gone"):
        list(answers(iter(frames), np.copy, run, Pace(4, 1, whole=False)))


def test_a_release_answers_from_the_run_that_begins_after_the_swap(world, classifier, frames):
    second = world.made(world.pack(0, ("blue",)), number=2).write(world.fresh())
    releases = []
    for count, answer in enumerate(classifier.stream(frames, batch=4), start=1):
        releases.append(answer.release)
        if count == 50:
            classifier.swap(second)
    assert set(releases[:50]) == {1}
    assert releases == sorted(releases)
    assert set(releases[50 + 4 :]) == {2}  # the answers of one run were there already
    during = classifier.predict(swapping(classifier, world, frames))
    assert {each.release for each in during} == {2}  # the whole call has one release
    assert classifier.release == 3


def swapping(classifier, world, frames):
    yield from frames[:70]
    classifier.swap(world.made(world.pack(0, ("red",)), number=3).write(world.fresh()))
    yield from frames[70:]


def test_four_threads_stream_at_once(classifier, frames):
    wanted = classifier.predict(frames, ahead=0)
    failed = []

    def reader(seed):
        try:
            rng = np.random.default_rng(seed)
            for _ in range(10):
                batch, ahead = int(rng.integers(1, 9)), int(rng.integers(0, 4))
                order = rng.permutation(len(frames))
                found = classifier.stream(frames[order], batch=batch, ahead=ahead)
                same(found, [wanted[i] for i in order])
                with closing(classifier.stream(frames, batch=batch, ahead=ahead)) as some:
                    same(itertools.islice(some, 5), wanted[:5])
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=reader, args=(seed,)) for seed in range(4)]
    for each in readers:
        each.start()
    for each in readers:
        each.join()
    assert failed == []


def test_order_and_room_hold_over_many_random_paces(cores):
    rng = np.random.default_rng(1)
    for _ in range(100):
        count, room, most = (int(n) for n in rng.integers(0, 9, 3) * (3, 1, 1) + (0, 1, 1))
        waits = rng.random(count) * 0.0005
        early = Ahead(iter(range(count)), lambda i, waits=waits: time.sleep(waits[i]) or i, room)
        with closing(early):
            found = []
            while ready := early.take(most, whole=False):
                assert len(ready) <= min(most, room)
                found += ready
        assert found == list(range(count))
