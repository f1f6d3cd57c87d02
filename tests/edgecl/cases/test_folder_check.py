"""`edgecl data check`: what it tells of a folder before anything is learned."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgecl.cli import data
from edgecl.streams import StreamError
from edgecl.streams.folders.check import check_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of two classes of noise, 25 images each."""
    rng = np.random.default_rng(0)
    for label, base in (("cat", 90), ("dog", 150)):
        (tmp_path / "root" / label).mkdir(parents=True)
        for index in range(25):
            pixels = (base + rng.normal(0, 40, (24, 32, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "root" / label / f"{index:02d}.png")
    return tmp_path / "root"


def findings(root: Path) -> dict[str, tuple[str, ...]]:
    return {reason.why: reason.first for reason in check_folder(root).findings}


def test_a_clean_folder_has_counts_and_no_findings(root: Path) -> None:
    found = check_folder(root)
    assert [(c.task, c.name, c.training + c.test) for c in found.classes] == [
        ("", "cat", 25),
        ("", "dog", 25),
    ]
    assert found.findings == ()
    assert (found.sizes.smallest, found.sizes.median, found.sizes.largest) == ((32, 24),) * 3
    assert found.sizes.modes == {"RGB": 50}
    assert found.sizes.bytes == sum(path.stat().st_size for path in root.rglob("*.png"))
    assert (found.files.total, found.files.layout) == (50, "2 class folders")
    assert check_folder(root, test_fraction=0.0).files.test == 0


def test_the_limit_of_pixels_is_an_option(root: Path) -> None:
    def broken(*options: str) -> list[str]:
        words = ["check", str(root), "--json", *options]
        done = CliRunner().invoke(data, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return [reason["why"] for reason in json.loads(done.stdout)["files"]["skipped"]]

    Image.new("L", (100, 90)).save(root / "cat" / "large.png")
    assert broken() == []
    assert broken("--max-pixels", "8000") == ["not readable as an image"]
    assert broken() == []  # the limit ended with the command
    assert "EDGECL_MAX_PIXELS" not in os.environ


def test_copies_are_told_by_where_they_are(root: Path) -> None:
    shutil.copy(root / "cat/00.png", root / "cat/copy.png")
    shutil.copy(root / "cat/01.png", root / "dog/cat.png")
    found = findings(root)
    assert found["the same content twice in one class"] == ("cat/00.png = cat/copy.png",)
    assert found["the same content in two classes"] == ("cat/01.png = dog/cat.png",)
    assert found["out of line with the class in light"] == ("dog/cat.png",)
    (root / "train").mkdir()
    for name in ("cat", "dog"):
        shutil.move(root / name, root / "train" / name)
    (root / "test" / "cat").mkdir(parents=True)
    shutil.copy(root / "train/cat/02.png", root / "test/cat/x.png")
    assert findings(root)["the same content in training and test"] == (
        "train/cat/02.png = test/cat/x.png",
    )


def test_constant_and_odd_images_are_named(root: Path) -> None:
    Image.new("RGB", (32, 24), (90, 90, 90)).save(root / "cat/flat.png")
    Image.open(root / "cat/00.png").resize((320, 240)).save(root / "cat/large.png")
    Image.open(root / "cat/00.png").resize((320, 3)).save(root / "cat/wide.png")
    Image.eval(Image.open(root / "dog/00.png"), lambda value: value // 8).save(
        root / "dog/dark.png"
    )
    found = findings(root)
    assert found["constant: all pixels are the same"] == ("cat/flat.png",)
    assert found["out of line with the class in size"] == ("cat/large.png",)
    assert found["out of line with the class in shape"] == ("cat/wide.png",)
    assert found["out of line with the class in light"] == ("dog/dark.png",)


def test_constant_is_what_the_learner_would_see(root: Path) -> None:
    levels = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    Image.fromarray(levels + 40_000).save(root / "cat/deep.png")  # no 8-bit conversion holds it
    Image.fromarray(np.full_like(levels, 40_000)).save(root / "cat/deep-flat.png")
    clear = Image.new("RGBA", (32, 24), (255, 255, 255, 0))
    clear.putpixel((3, 3), (9, 9, 9, 0))
    clear.save(root / "cat/clear.png")
    assert sorted(findings(root)["constant: all pixels are the same"]) == [
        "cat/clear.png",
        "cat/deep-flat.png",
    ]


def test_a_small_class_is_not_judged(root: Path) -> None:
    for path in sorted((root / "cat").iterdir())[18:]:
        path.unlink()
    Image.open(root / "dog/00.png").resize((320, 240)).save(root / "cat/24.png")
    assert "out of line with the class in size" not in findings(root)


def test_what_cannot_be_read_is_skipped_here_too(root: Path) -> None:
    (root / "cat/00.png").write_bytes((root / "cat/00.png").read_bytes()[:200])  # a whole header
    (root / "dog/00.png").write_bytes(b"")
    found = check_folder(root)
    assert {(r.why, r.count) for r in found.files.skipped} == {("not readable as an image", 2)}
    assert sum(c.training + c.test for c in found.classes) == 48


def test_a_folder_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="understood would be"):
        check_folder(tmp_path)


def test_the_command(root: Path) -> None:
    shutil.copy(root / "cat/01.png", root / "dog/cat.png")
    (root / "notes.txt").write_text("x")
    shown = CliRunner().invoke(data, ["check", str(root), "--seed", "0"], catch_exceptions=False)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == f"{root}: 2 class folders, 52 files"
    assert "look at: 1 the same content in two classes: cat/01.png = dog/cat.png" in lines
    assert "sizes: 32 x 24 to 32 x 24, median 32 x 24; 0.1 MB; 51 RGB" in lines
    assert lines[-1] == "  1 ignored, without an image's ending: notes.txt"
    result = CliRunner().invoke(data, ["check", str(root), "--json"], catch_exceptions=False)
    value = json.loads(result.stdout)
    assert value["findings"][0]["count"] == 1
    assert value["files"]["total"] == 52
    assert [row["name"] for row in value["classes"]] == ["cat", "dog"]


def test_many_classes_are_cut_for_people(tmp_path: Path) -> None:
    for index in range(60):
        path = tmp_path / "root" / f"task_{index % 2}" / f"c{index:02d}" / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("L", (4, 4), index).save(path)
    shown = CliRunner().invoke(data, ["check", str(tmp_path / "root")], catch_exceptions=False)
    assert "... 10 classes more: --json has all" in shown.stdout
    assert "task_1" in shown.stdout


def test_names_are_unique_in_each_task(tmp_path: Path) -> None:
    """What `edgecl train --protocol mtil` takes; a domain stream needs one spelling."""
    for row, (folder, count) in enumerate({"task_0/pizza": 1, "task_1/Pizza": 30}.items()):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (9, 7), (row, index, 0)).save(tmp_path / folder / f"{index}.png")
    found = check_folder(tmp_path)
    assert [(each.task, each.name) for each in found.classes] == [
        ("task_0", "pizza"),
        ("task_1", "Pizza"),
    ]
    assert "'pizza' and 'Pizza' are one name in two tasks" in found.files.notes[0]
    with pytest.raises(StreamError, match="Rename one of the two"):
        check_folder(tmp_path, protocol="dil")


def test_a_class_of_one_task_without_a_test_image_is_named(tmp_path: Path) -> None:
    for name in ("train/task_0/pizza", "train/task_1/pizza", "test/task_1/pizza"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (9, 7), (len(name), name.count("1"), 0)).save(tmp_path / name / "1.png")
    wanted = "1 of 2 classes of tasks have no test image: task_0/pizza"
    assert wanted in check_folder(tmp_path).files.notes
