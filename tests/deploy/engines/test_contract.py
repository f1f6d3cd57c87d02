"""What every engine keeps, over the registry; those that are not installed here are skipped."""

import threading

import numpy as np
import pytest
from tests.deploy.engines.fakes import NVIDIA

from edgecl_deploy import Classifier, engines
from edgecl_deploy.engines import Artefacts, Graph, make_engine
from edgecl_deploy.errors import EngineError, OptionError
from edgecl_deploy.forms import Mode
from edgecl_deploy.programs import load_program

BATCHES = (1, 2, 7)
MODES = [("fused", "dynamic"), ("staged", "dynamic"), ("staged", "fixed")]
COLOURS = ["red", "green", "blue", "white"]
TOLERANCE = 1e-5


@pytest.fixture(params=engines.names())
def engine(request: pytest.FixtureRequest) -> str:
    if not engines.installed(request.param):
        if request.param not in NVIDIA:
            pytest.skip(f"{request.param} is not installed here")
        request.getfixturevalue("nvidia")
    return str(request.param)


def able(engine: str, form: str, slots: str, batch: int | None = None) -> Mode:
    mode = Mode(form, slots, batch=batch)
    try:
        mode.check(make_engine(engine))
    except OptionError as error:
        pytest.skip(f"{engine}: {error}")
    return mode


def open_able(engine: str, bundle: object, release: object, **options: object) -> Classifier:
    """Open a classifier in the first mode that the engine runs."""
    for form, slots in MODES:
        try:
            Mode(form, slots).check(make_engine(engine))
        except OptionError:
            continue
        return Classifier.open(bundle, release, engine=engine, form=form, slots=slots, **options)
    raise AssertionError(f"{engine} runs no form")


def some_images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(("form", "slots"), MODES)
@pytest.mark.parametrize("program", ["plain", "pool"])
def test_scores_are_those_of_the_mathematics(world, engine, program, form, slots):
    """At every task count and batch size, whatever else is in the batch."""
    able(engine, form, slots)
    first = world.release("red", program=program)
    classifier = Classifier.open(world.bundle_path, first, engine=engine, form=form, slots=slots)
    for count in range(1, len(COLOURS) + 1):
        packs = [world.pack(i, (name,), program=program) for i, name in enumerate(COLOURS[:count])]
        classifier.swap(world.made(*packs, number=count).write(world.fresh()))
        for batch in BATCHES:
            images = some_images(batch)
            want = world.expected(images, [pack for pack, _ in packs], program)
            got = classifier.scores(images)
            assert got.scores == pytest.approx(want, abs=TOLERANCE)
            assert got.match.dtype == np.int64
            alone = [classifier.scores(images[i : i + 1]).scores[0] for i in range(batch)]
            assert got.scores == pytest.approx(np.stack(alone), abs=TOLERANCE)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("form", "slots"), MODES)
def test_a_fixed_batch_gives_the_same_scores(world, engine, batch, form, slots):
    able(engine, form, slots, batch)
    path = world.release("red", "blue", program="pool")
    free = Classifier.open(world.bundle_path, path, engine=engine, form=form, slots=slots)
    fixed = Classifier.open(
        world.bundle_path, path, engine=engine, form=form, slots=slots, batch=batch
    )
    for count in (0, *BATCHES):
        images = some_images(count)
        want, got = free.scores(images), fixed.scores(images)
        assert got.scores.shape == want.scores.shape
        assert got.scores == pytest.approx(want.scores, abs=TOLERANCE)
        assert np.array_equal(got.match, want.match)


def test_inputs_are_only_read(world, engine):
    """Learned tensors may be in a mapping of a file, images in a frame of a camera."""
    path = world.release("red", "blue")
    classifier = open_able(engine, world.bundle_path, path)
    images = some_images(2)
    before = classifier.scores(images).scores.copy()
    images.setflags(write=False)
    first = classifier.scores(images).scores
    kept = first.copy()
    classifier.scores(some_images(2)[::-1].copy())
    assert np.array_equal(first, kept), "an output changed with the next call"
    assert np.array_equal(kept, before)


def test_swaps_under_load_mix_nothing(world, engine):
    """Four readers while releases that add classes come; the backbone is never loaded again."""
    paths = [world.release(*COLOURS[:n], number=n) for n in range(1, len(COLOURS) + 1)]
    classifier = open_able(engine, world.bundle_path, paths[0], threads=1)
    images = some_images(3)
    right = []
    for path in paths:
        classifier.swap(path)
        right.append(classifier.scores(images).scores)
    loads = []
    load = classifier.engine.load
    classifier.engine.load = lambda graph: loads.append(graph) or load(graph)
    stop, wrong, calls = threading.Event(), [], []

    def read():
        try:
            while not stop.is_set():
                got = classifier.scores(images).scores
                calls.append(got.shape)
                if not np.allclose(got, right[got.shape[1] - 1], atol=TOLERANCE):
                    wrong.append(got)
        except Exception as error:  # the test must see it
            wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(50):
        for path in paths:
            classifier.swap(path)
    stop.set()
    for reader in readers:
        reader.join()
    assert (wrong, loads) == ([], [])
    assert len(calls) > 8


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x09" * 50])
def test_a_damaged_graph_is_one_error(engine, tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"a\.onnx must load"):
        make_engine(engine).load(Graph(tmp_path / "a.onnx"))


def test_wrong_arrays_are_one_error(world, engine):
    path = world.release("red")
    classifier = open_able(engine, world.bundle_path, path)
    with pytest.raises(EngineError, match="must run on the arrays"):
        classifier.loaded.bound.run(np.zeros((1, 4, 4, 3), np.uint8))
    assert classifier.scores(some_images(1)).scores.shape == (1, 1)


def test_a_second_start_gives_the_same(world, engine, tmp_path):
    """From what the first one kept, if this engine keeps anything."""
    path = world.release("red", "blue", program="pool")
    images = some_images(2)
    folder = tmp_path / "kept"
    scores = [
        open_able(engine, world.bundle_path, path, cache=folder).scores(images).scores
        for _ in range(2)
    ]
    assert np.array_equal(*scores)


def test_nothing_is_kept_without_a_folder(world, engine):
    artefacts = Artefacts(world.root / "kept")
    program = world.bundle.programs["plain"]
    load_program(make_engine(engine, None, artefacts), world.bundle_path, program, Mode())
    assert not artefacts.folder.exists()
