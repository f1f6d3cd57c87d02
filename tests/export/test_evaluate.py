"""`edgecl evaluate`: a labelled folder, in PyTorch and with the device's runtime, alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from edgecl.backbones import Clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.class_metrics import ClassTally
from edgecl.learning.labelled import (
    LINES,
    Labelled,
    LabelledError,
    Measured,
    evaluate_folder,
    read_labelled,
)
from edgecl.learning.learner import Learner
from edgecl.learning.training import Compute
from edgecl.session import learn_stream, new_learner
from edgecl.streams import Stream, StreamError
from edgecl_export import evaluate as command
from edgecl_export import export_bundle, export_packs, export_release
from edgecl_export.measuring import evaluate_release

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
MakeFolders = Callable[..., Path]
KNOWN = ("hue-0", "hue-1", "hue-2", "hue-3")


@pytest.fixture(scope="module")
def shipped(
    tiny_clip: Clip, make_stream: MakeStream, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Learner, Path, Path]:
    """A learner, and the bundle and release of its run."""
    root = tmp_path_factory.mktemp("evaluate")
    stream = make_stream(((0, 1), (2, 3)))
    learner = new_learner(
        root / "run",
        "simplecil",
        tiny_clip,
        stream,
        compute=Compute(torch.device("cpu")),
        cache=FeatureCache(None, tiny_clip.visual.digest),
    )
    learn_stream(learner, stream)
    bundle, packs, release = (root / name for name in ("bundle", "packs", "release"))
    export_bundle(learner, bundle)
    export_packs(learner, packs, dtype="float32")
    export_release(packs, release, bundle)
    return learner, bundle, release


@pytest.fixture
def images(make_folders: MakeFolders) -> Path:
    """Known classes under a wrong hue here and there, an unknown and an empty one, and dirt."""
    root = make_folders(
        {"hue-0": 0, "hue-1": 1, "hue-2/night": 5, "hue-2/day": 2, "zebra": 4}, count=3
    )
    (root / "hue-3").mkdir()
    (root / "hue-0" / "broken.png").write_bytes(b"no image")
    (root / "hue-1" / "._000.png").write_bytes(b"left by a system")
    (root / "hue-1" / "notes.txt").write_text("no image")
    (root / "loose.png").write_bytes((root / "hue-0" / "000.png").read_bytes())
    (root / "__MACOSX").mkdir()
    return root


def test_pytorch_and_the_device_give_the_same_figures(
    shipped: tuple[Learner, Path, Path], images: Path
) -> None:
    learner, bundle, release = shipped
    mine = evaluate_folder(learner, images)
    theirs = evaluate_release(release, images, bundle)
    figures = mine.classes
    assert (mine.by, mine.release, theirs.by, theirs.release) == ("pytorch", 0, "device", 2)
    assert figures.names == KNOWN
    assert figures.images == (3, 3, 6, 0)
    assert figures.without_images == ("hue-3",)
    for name in ("images", "right", "said", "pairs"):
        assert getattr(theirs.classes, name) == getattr(figures, name), name
    assert [m.image for m in theirs.classes.mistakes] == [m.image for m in figures.mistakes]
    for one, other in zip(theirs.classes.mistakes, figures.mistakes, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
    assert {m.image for m in figures.mistakes} >= {f"hue-2/night/00{i}.png" for i in range(3)}
    assert (mine.unknown, mine.unlabelled) == (theirs.unknown, theirs.unlabelled)
    assert (mine.unknown, mine.unlabelled) == ({"zebra": 3}, 1)
    assert [line.split(":")[0] for line in theirs.skipped] == ["hue-0/broken.png"]
    assert [("hue-0/broken.png" in line) for line in mine.skipped] == [True]
    for each in (mine, theirs):
        assert Measured.from_json(json.loads(json.dumps(each.to_json()))) == each


def test_a_workstation_takes_larger_photographs_than_a_device(
    shipped: tuple[Learner, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bundle, release = shipped
    (tmp_path / "photos" / "hue-0").mkdir(parents=True)
    Image.new("1", (4200, 4000)).save(tmp_path / "photos" / "hue-0" / "large.png")
    assert evaluate_release(release, tmp_path / "photos", bundle).skipped == ()
    monkeypatch.setenv("EDGECL_MAX_PIXELS", "1000")
    (line,) = evaluate_release(release, tmp_path / "photos", bundle).skipped
    assert "1 to 1000 pixels" in line


def test_the_command_says_it(
    shipped: tuple[Learner, Path, Path], images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, bundle, release = shipped
    monkeypatch.setattr("edgecl.session.open_learner", lambda *_, **__: learner)

    def run(*words: object, status: int = 0) -> Any:
        done = CliRunner().invoke(command.evaluate, [str(word) for word in words])
        assert done.exit_code == status, done.output
        return done

    text = run(release, images, "--bundle", bundle).stdout
    accuracy = run(release, images, "--bundle", bundle, "--json").stdout
    found = json.loads(accuracy)["accuracy"]
    assert f"{100 * found:.1f} % of 12 images right, with the device's runtime, release 2" in text
    assert "not known, in no figure (images): zebra (3)" in text
    assert "known, without images here: hue-3" in text
    assert "1 images in no class folder, in no figure" in text
    assert "skipped: hue-0/broken.png: " in text
    assert "most confused: hue-2 as " in text
    assert "right, with PyTorch" in run(learner.run.path, images).stdout

    for words, must in (
        ((release, images), "name its bundle, too"),
        ((learner.run.path, images, "--bundle", bundle), "goes with a RELEASE"),
        ((images, images), "must be a run, a release with --bundle, or a store"),
    ):
        drawn = run(*words, status=2).output.replace("│", " ")  # in a box, in several lines
        assert must in " ".join(drawn.split())


def test_many_classes_are_a_short_table() -> None:
    names = tuple(f"class {index:04d}" for index in range(1000))
    tally = ClassTally(names)
    for index, name in enumerate(names):
        tally.add("a.png", name, name if index % 10 else names[0], 0.5)
    labelled = Labelled(Path("."), (), (), {f"x{i}": 1 for i in range(30)}, 0)
    found = Measured.of(
        labelled, tally.figures(), ["line"] * (LINES + 5), what="r", by="device", folder="f"
    )
    shown = command.table(found.classes)
    assert (shown.row_count, "of 1000 with the lowest recall" in str(shown.title)) == (40, True)
    lines = list(command.remarks(found))
    assert "and 20 more" in next(line for line in lines if line.startswith("not known"))
    assert lines[-1] == f"skipped: {LINES + 5 - 10} more"
    assert (len(found.skipped), found.skipped_left_out) == (LINES, 5)


# -- folders


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


@pytest.mark.parametrize(
    "files",
    [
        ("cat/1.png", "dog/2.JPG"),
        ("test/cat/1.png", "test/dog/2.png", "train/cat/9.png"),
        ("test/task_00/cat/1.png", "test/task_01/dog/2.png"),
        ("task_0/cat/1.png", "task_1/dog/2.png"),
        ("cat/deep/er/1.png", "dog/2.webp", ".hidden/3.png", "@eaDir/4.png"),
        (
            "task_0/test/cat/1.png",
            "task_0/train/cat/8.png",
            "task_1/test/dog/2.png",
            "task_1/train/dog/9.png",
        ),
        (
            "photos/test/cat/1.png",
            "photos/test/dog/2.png",
            "photos/train/cat/8.png",
            "photos/train/dog/9.png",
        ),
    ],
)
def test_the_layouts(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        picture(tmp_path / name)
    found = read_labelled(tmp_path, ("dog", "cat"))
    assert sorted(zip(found.wanted, (p.stem for p in found.paths), strict=True)) == [
        *(("cat", "1"), ("dog", "2"))
    ]
    assert (found.unknown, found.unlabelled) == ({}, 0)


def test_a_table_gives_the_classes(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        picture(tmp_path / "shots" / name)
    rows = "file,label\nshots/1.png,cat\nshots/2.png,dog\nshots/3.png,zebra\n"
    (tmp_path / "labels.csv").write_text(rows)
    found = read_labelled(tmp_path, ("dog", "cat"))
    assert [found.name(index) for index in range(2)] == ["shots/1.png", "shots/2.png"]
    assert (found.wanted, found.unknown) == (("cat", "dog"), {"zebra": 1})


@pytest.mark.parametrize(
    ("known", "folder"),
    [("K\u00e4se", "Ka\u0308se"), ("Ka\u0308se", "K\u00e4se"), ("cat", "cat ")],
)
def test_one_spelling_of_a_name(tmp_path: Path, known: str, folder: str) -> None:
    picture(tmp_path / folder / "1.png")
    assert read_labelled(tmp_path, (known,)).wanted == (known,)


def test_nothing_to_measure_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelledError, match="Give the folder above the classes"):
        read_labelled(tmp_path / "none", ("cat",))
    with pytest.raises(StreamError, match="understood would be"):
        read_labelled(tmp_path, ("cat",))
    picture(tmp_path / "zebra" / "1.png")
    with pytest.raises(LabelledError, match=r"got zebra\. Known are cat\."):
        read_labelled(tmp_path, ("cat",))


def test_a_run_that_learned_nothing_is_refused(make_learner: MakeLearner, tmp_path: Path) -> None:
    with pytest.raises(LabelledError, match="Go on with `edgecl train --resume"):
        evaluate_folder(make_learner("simplecil"), tmp_path)
