"""The classifier: both forms, both slot modes, labels, swaps under load."""

import re
import threading
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from edgecl_deploy import Classifier
from edgecl_deploy.engines import Capabilities
from edgecl_deploy.errors import (
    DeployError,
    DigestError,
    EngineError,
    LimitError,
    OptionError,
    SelfTestError,
    SizeError,
    TensorShapeError,
    WrongBackboneError,
    WrongInterfaceError,
    WrongProgramError,
)
from edgecl_deploy.format import parse_pack

MODES = [("fused", "dynamic"), ("staged", "dynamic"), ("staged", "fixed")]


@pytest.mark.parametrize("program", ["plain", "pool"])
@pytest.mark.parametrize(("form", "slots"), MODES)
def test_every_form_computes_the_program(world, program, form, slots):
    packs = [world.pack(i, (name,), program=program) for i, name in enumerate(["red", "green"])]
    path = world.made(*packs).write(world.fresh())
    classifier = Classifier.open(world.bundle_path, path, form=form, slots=slots, threads=1)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    expected = world.expected(images, [pack for pack, _ in packs], program)
    for batch in (1, 2, 5):
        out = classifier.scores(images[:batch])
        np.testing.assert_allclose(out.scores, expected[:batch], rtol=0, atol=1e-6)
        assert out.feature.shape == (batch, 3)
        assert out.match.shape == out.match_score.shape == (batch, 1)
        assert out.match.dtype == np.int64


@pytest.mark.parametrize(("form", "slots"), MODES)
def test_match_is_the_task_that_was_chosen(world, colour_picture, form, slots):
    path = world.release("red", "green", "blue", program="pool")
    classifier = Classifier.open(world.bundle_path, path, form=form, slots=slots)
    predictions = classifier.predict([colour_picture("green"), colour_picture("red")])
    assert [p.match for p in predictions] == [[1], [0]]
    assert [p.match_score for p in predictions] == [[pytest.approx(1)], [pytest.approx(1)]]


def test_predict_takes_whatever_holds_an_image(world, colour_picture, tmp_path):
    classifier = Classifier.open(world.bundle_path, world.release("red", "green"))
    array = colour_picture("green")
    image = Image.fromarray(array)
    file, encoded = tmp_path / "green.png", BytesIO()
    image.save(file)
    image.save(encoded, "PNG")
    sources = [array, image, file, str(file), encoded.getvalue()]
    predictions = classifier.predict(sources, top_k=1)
    assert [p.label for p in predictions] == ["green"] * 5
    assert {p.top for p in predictions} == {(("green", predictions[0].score),)}
    assert classifier.predict(colour_picture("red", 2))[1].label == "red"
    assert classifier.predict([]) == []


def test_arrays_are_rgb_unless_it_is_said(world, colour_picture):
    classifier = Classifier.open(world.bundle_path, world.release("red", "blue"))
    frame = colour_picture("blue")[:, :, ::-1]  # as OpenCV gives it
    assert classifier.predict([frame])[0].label == "red"
    assert classifier.predict([frame], channels="bgr")[0].label == "blue"
    assert classifier.predict([frame] * 40, 1, channels="bgr")[-1].label == "blue"
    with pytest.raises(OptionError, match='Say "bgr" for arrays of OpenCV'):
        classifier.predict([frame], channels="gbr")


def test_a_bad_image_does_not_touch_the_others(world, colour_picture):
    classifier = Classifier.open(world.bundle_path, world.release("red", "green"))
    sources = [colour_picture("red"), b"no image", *[colour_picture("green")] * 40, "/no/such/file"]
    predictions = classifier.predict(sources)
    assert [p.label for p in predictions] == ["red", None, *["green"] * 40, None]
    assert "Name image files only" in predictions[1].error
    assert predictions[1].top == ()
    assert predictions[1].score is None
    assert predictions[-1].error is not None
    assert all(p.error is None for p in predictions[2:-1])


def test_predict_refuses_one_image_and_no_classes(world, colour_picture):
    classifier = Classifier.open(world.bundle_path, world.release("red"))
    for one in ("a.jpg", b"bytes", colour_picture("red")):
        with pytest.raises(OptionError, match=r"Call predict\(\[image\]\)"):
            classifier.predict(one)
    with pytest.raises(OptionError, match="Ask for one class or more"):
        classifier.predict([], top_k=0)


def test_rows_of_one_class_count_as_their_best(world, colour_picture):
    first = world.pack(0, ("red", "green"))
    again = {"prototypes": np.array([[0, 0, 1], [0.2, 0.2, 0.2]], np.float32)}
    second = world.pack(1, ("red", "white"), known=("red",), tensors=again)
    classifier = Classifier.open(world.bundle_path, world.made(first, second).write(world.fresh()))
    assert classifier.classes == ("red", "green", "white")
    assert classifier.loaded.rows == ("red", "green", "red", "white")
    blue, red = classifier.predict([colour_picture("blue"), colour_picture("red")])
    assert blue.label == red.label == "red"
    assert [name for name, _ in blue.top] == ["red", "white", "green"]
    assert blue.score == pytest.approx(1.0)


def test_a_row_that_was_moved_counts_no_more(world, colour_picture):
    first = world.pack(0, ("red", "green"))
    again = {"prototypes": np.array([[0, 0, 1]], np.float32)}
    second, blobs = world.pack(1, ("red",), known=("red",), tensors=again)
    made = world.made(first, (replace(second, moved=("red",)), blobs))
    classifier = Classifier.open(world.bundle_path, made.write(world.fresh()))
    assert classifier.classes == ("red", "green")
    blue, red = classifier.predict([colour_picture("blue"), colour_picture("red")])
    assert blue.score == pytest.approx(1.0)
    assert blue.label == "red"
    assert dict(red.top)["red"] < 0.1  # the former row would give 1


def test_known_follows_the_calibration(world, colour_picture):
    packs = [world.pack(0, ("red", "green"))]
    images = [colour_picture("red"), colour_picture("white")]
    path = world.made(*packs, unknown_below=0.9).write(world.fresh())
    classifier = Classifier.open(world.bundle_path, path)
    assert [p.known for p in classifier.predict(images)] == [True, False]
    classifier.swap(world.release("red", "green"))
    assert [p.known for p in classifier.predict(images)] == [None, None]


def test_scores_refuses_unprepared_images(world):
    classifier = Classifier.open(world.bundle_path, world.release("red"))
    for bad in (np.zeros((1, 9, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.float32)):
        with pytest.raises(TensorShapeError, match="Pass the originals to predict"):
            classifier.scores(bad)


def canary(world, colour_picture, *packs, error=0.0):
    images = np.stack([colour_picture(name) for name in ("red", "green", "white")])
    scores = world.expected(images, [pack for pack, _ in packs], packs[0][0].program) + error
    return images, scores.astype(np.float32)


def test_canaries_run_at_open_and_on_demand(world, colour_picture):
    pack = world.pack(0, ("red", "green"))
    good = world.made(pack, canary=canary(world, colour_picture, pack)).write(world.fresh())
    result = Classifier.open(world.bundle_path, good).self_test()
    assert (result.release, result.images) == (1, 3)
    assert result.max_error < 1e-6
    assert Classifier.open(world.bundle_path, world.release("red")).self_test().images == 0


@pytest.mark.parametrize("error", [0.1, np.nan])
def test_a_release_with_failing_canaries_is_never_served(world, colour_picture, error):
    pack = world.pack(0, ("red", "green"))
    made = world.made(pack, canary=canary(world, colour_picture, pack, error=error), number=2)
    path = made.write(world.fresh())
    with pytest.raises(SelfTestError, match="Keep the former release"):
        Classifier.open(world.bundle_path, path)
    classifier = Classifier.open(world.bundle_path, world.release("blue"))
    with pytest.raises(SelfTestError, match="edgecl export verify"):
        classifier.swap(path)
    assert classifier.release == 1
    assert classifier.predict([colour_picture("red")])[0].label == "blue"


def test_malformed_canaries_are_refused(world, colour_picture):
    pack = world.pack(0, ("red", "green"))
    images, scores = canary(world, colour_picture, pack)
    for bad in ((images, scores[:2]), (images, scores[:, :1]), (images.astype(np.int32), scores)):
        path = world.made(pack, canary=bad).write(world.fresh())
        with pytest.raises(SelfTestError, match="Make the release again"):
            Classifier.open(world.bundle_path, path)


def test_small_canaries_are_enlarged_to_the_programs_side(world, colour_picture):
    pack = world.pack(0, ("red", "green"))
    images, scores = canary(world, colour_picture, pack)
    half = images[:, ::2, ::2]
    classifier = Classifier.open(
        world.bundle_path, world.made(pack, canary=(half, scores)).write(world.fresh())
    )
    assert classifier.self_test().images == len(images)
    for odd in (images[:, :3, :3], images[:, ::2], images.repeat(2, 1).repeat(2, 2)):
        path = world.made(pack, canary=(np.ascontiguousarray(odd), scores)).write(world.fresh())
        with pytest.raises(SelfTestError, match="whose side divides 8"):
            classifier.swap(path)


def test_swap_takes_new_tasks_and_goes_back(world, colour_picture):
    one, two = world.release("red"), world.release("red", "green", number=2)
    classifier = Classifier.open(world.bundle_path, one)
    green = [colour_picture("green")]
    assert classifier.predict(green)[0].label == "red"
    assert classifier.swap(two) == 2
    answer = classifier.predict(green)[0]
    assert (answer.label, answer.release) == ("green", 2)
    assert classifier.swap(one) == 1
    assert classifier.predict(green)[0].label == "red"


def test_swap_to_another_program_loads_it_first(world, colour_picture):
    classifier = Classifier.open(world.bundle_path, world.release("red", "green"))
    before = classifier.loaded.form
    classifier.swap(world.release("red", "green", number=2))
    assert classifier.loaded.form is before  # the same sessions
    classifier.swap(world.release("red", "green", number=3, program="pool"))
    assert classifier.loaded.form is not before
    assert classifier.predict([colour_picture("green")])[0].match == [1]


@pytest.mark.parametrize(
    ("change", "error", "action"),
    [
        ({"backbone": "0" * 64}, WrongBackboneError, "Install the bundle of that backbone"),
        ({"program": "l2p"}, WrongProgramError, "Install the bundle that holds this program"),
        ({"program": "pool"}, WrongInterfaceError, "from the same run"),
        ({"interface": "0" * 64}, WrongInterfaceError, "Export the packs and the bundle"),
    ],
)
def test_a_failed_swap_leaves_the_old_release(world, colour_picture, change, error, action):
    classifier = Classifier.open(world.bundle_path, world.release("red"))
    made = world.made(world.pack(0, ("green",)), number=2)
    made.release = replace(made.release, **change)
    with pytest.raises(error, match=action):
        classifier.swap(made.write(world.fresh()))
    with pytest.raises(DeployError):
        classifier.swap(world.root / "nowhere")
    assert classifier.release == 1
    assert classifier.predict([colour_picture("green")])[0].label == "red"


def test_packs_of_another_program_are_refused(world):
    made = world.made(world.pack(0, ("green",)))
    ((_, data),) = made.manifests.items()
    pack = replace(parse_pack(data), program="pool")
    mixed = world.made((pack, made.blobs))
    mixed.release = replace(made.release, packs=mixed.release.packs)
    with pytest.raises(WrongProgramError, match="one release per program"):
        Classifier.open(world.bundle_path, mixed.write(world.fresh()))


def test_a_release_of_an_earlier_bundle_runs_if_the_interface_fits(world):
    made = world.made(world.pack(0, ("red",)))
    made.release = replace(made.release, bundle="0" * 64)  # before another program was added
    assert Classifier.open(world.bundle_path, made.write(world.fresh())).classes == ("red",)


def test_two_threads_and_many_swaps_give_no_torn_result(world, colour_picture):
    """Each release has its own class names: a label of another release would be a torn result."""
    names = [("red", "green"), ("blue", "white"), ("green", "red", "blue")]
    packs = [[world.pack(i, (n,)) for i, n in enumerate(each)] for each in names]
    paths = [world.made(*p, number=i + 1).write(world.fresh()) for i, p in enumerate(packs)]
    four = np.stack([colour_picture(name) for name in ("red", "green", "blue", "white")])
    images = np.tile(four, (10, 1, 1, 1))  # more than one batch of `predict`
    expected = {
        i + 1: world.expected(images, [pack for pack, _ in each], "plain")
        for i, each in enumerate(packs)
    }
    classifier = Classifier.open(world.bundle_path, paths[0], threads=1)
    torn: list[object] = []
    answered: set[int] = set()
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            predictions = classifier.predict(list(images), top_k=3)
            numbers = {p.release for p in predictions}
            number = predictions[0].release
            answered.add(number)
            for row, p in zip(expected[number], predictions, strict=True):
                merged = dict(p.top)
                right = dict(zip(names[number - 1], row, strict=True))
                if numbers != {number} or merged != pytest.approx(right, abs=1e-3):
                    torn.append(p)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for i in range(150):
            classifier.swap(paths[i % 3])
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert torn == []
    assert len(answered) > 1


def test_options_that_make_no_sense_are_refused(world, fake_engine):
    path = world.release("red")
    for options, action in [
        ({"form": "onnx"}, "Use form='fused'"),
        ({"slots": "many"}, "Use slots='dynamic'"),
        ({"form": "fused", "slots": "fixed"}, "Add form='staged'"),
        ({"engine": "tpu"}, "Use one of .*onnxruntime"),
        ({"threads": 0}, "Leave threads out"),
    ]:
        with pytest.raises(OptionError, match=action):
            Classifier.open(world.bundle_path, path, **options)
    fake_engine.able = Capabilities(empty_tensors=False, dynamic_shapes=False)
    with pytest.raises(OptionError, match="Use form='staged' and slots='fixed'"):
        Classifier.open(world.bundle_path, path, engine="fake", form="fused")
    with pytest.raises(OptionError, match="Use slots='fixed'"):
        Classifier.open(world.bundle_path, path, engine="fake", form="staged", slots="dynamic")


def test_a_device_takes_photographs_of_its_size(world):
    def answers(picture, **options):
        return Classifier.open(world.bundle_path, path, **options).predict([picture])[0]

    def encoded(size):
        buffer = BytesIO()
        Image.new("RGB", size, "red").save(buffer, "JPEG", quality=50)
        return buffer.getvalue()

    path = world.release("red", "green")
    assert answers(encoded((4032, 3024))).label == "red"  # 12 megapixels
    large = encoded((4200, 4000))
    assert re.search(r"1 to 16777216 pixels; .*4200 x 4000. .*--max-pixels", answers(large).error)
    assert answers(large, max_pixels=2**26).label == "red"
    frame = np.zeros((40, 40, 3), np.uint8)
    assert "1 to 1000 pixels" in answers(frame, max_pixels=1000).error
    for wrong in (0, 2**27 + 1, None, "many"):
        with pytest.raises(OptionError, match="choose another number"):
            answers(frame, max_pixels=wrong)


def test_a_fake_engine_serves(world, fake_engine, colour_picture):
    classifier = Classifier.open(world.bundle_path, world.release("red", "blue"), engine="fake")
    assert classifier.predict([colour_picture("blue")])[0].label == "blue"
    assert [path.name for path in fake_engine.loads] == ["plain.fused.onnx"]


def test_a_graph_that_breaks_its_contract_is_our_error(world, fake_engine):
    with pytest.raises(EngineError, match="report it"):  # the fake knows no slots
        Classifier.open(
            world.bundle_path, world.release("red"), engine="fake", form="staged", slots="fixed"
        )


def test_scores_of_another_width_are_our_error(world, fake_engine, colour_picture, monkeypatch):
    classifier = Classifier.open(world.bundle_path, world.release("red", "blue"), engine="fake")
    session = classifier.loaded.bound._pinned.session
    run = session.run
    monkeypatch.setattr(session, "run", lambda f: {**run(f), "scores": run(f)["scores"][:, :1]})
    with pytest.raises(EngineError, match="Run `edgecl export verify`"):
        classifier.predict([colour_picture("blue")])
    monkeypatch.setattr(session, "run", lambda f: {**run(f), "scores": run(f)["scores"] * np.nan})
    assert "Undo this release" in classifier.predict([colour_picture("blue")])[0].error


def test_a_slot_longer_than_its_capacity_is_an_error(world):
    tensors = world.tensors(0, ("red",), "pool")
    tensors["shift"] = np.zeros((3, 3), np.float32)
    path = world.made(world.pack(0, ("red",), program="pool", tensors=tensors)).write(world.fresh())
    Classifier.open(world.bundle_path, path, form="staged")
    with pytest.raises(LimitError, match="Use slots='dynamic'"):
        Classifier.open(world.bundle_path, path, form="staged", slots="fixed")


def test_changed_weights_and_graphs_are_refused(world):
    path = world.release("red")
    for name in ("weights.bin", "plain.fused.onnx"):
        file = world.bundle_path / name
        original = file.read_bytes()
        file.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(DigestError, match="Copy the whole directory again"):
            Classifier.open(world.bundle_path, path)
        file.write_bytes(original)
    assert Classifier.open(world.bundle_path, path, verify=False).release == 1


def test_a_broken_graph_names_the_remedy(world):
    path = world.release("red")
    file = world.bundle_path / "plain.fused.onnx"
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(EngineError, match="Install the onnxruntime that the bundle was verified"):
        Classifier.open(world.bundle_path, path, verify=False)


def test_a_file_that_changes_its_size_is_refused_when_it_is_hashed(world, monkeypatch):
    classifier = Classifier.open(world.bundle_path, world.release("red"))
    file = world.bundle_path / "pool.fused.onnx"
    file.write_bytes(file.read_bytes() + b"x")  # after the sizes were checked
    with pytest.raises(SizeError, match="Copy the whole directory again"):
        classifier.swap(world.release("red", program="pool"))
    assert classifier.release == 1


def test_learned_tensors_cannot_be_written(world):
    classifier = Classifier.open(world.bundle_path, world.release("red"))
    with pytest.raises(ValueError, match="read-only"):
        classifier.loaded.bound._pinned.held["prototypes"][0, 0] = 1
