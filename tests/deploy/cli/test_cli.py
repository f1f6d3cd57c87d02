"""The commands: output, exit status, one line on stderr."""

import csv
import json

import pytest
from click.testing import CliRunner
from PIL import Image
from tests.deploy.support.variants import add_variant, licensed, with_canary

from edgecl_deploy.cli import device
from edgecl_deploy.format import (
    BUNDLE_FORMAT,
    CHANNEL_FORMAT,
    PACK_FORMAT,
    REDUCED_FORMAT,
    RELEASE_FORMAT,
    TEXT_FORMAT,
)


@pytest.fixture
def run():
    def invoke(*arguments):
        return CliRunner().invoke(device, [str(each) for each in arguments])

    return invoke


@pytest.fixture
def files(world, colour_picture, tmp_path):
    for name in ("red", "green"):
        Image.fromarray(colour_picture(name)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    return tmp_path


def test_classify_labels_images(world, run, files):
    release = world.release("red", "green")
    result = run("classify", world.bundle_path, release, files / "green.png", "--top", "1")
    assert result.exit_code == 0
    assert "green  [green 1.000]  match 0  release 1" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("options", ["", "--form staged", "--form staged --slots fixed"])
def test_classify_writes_json(world, run, files, options):
    release = world.release("red", "green", program="pool")
    names = [str(files / "red.png"), str(files / "green.png")]
    result = run("classify", world.bundle_path, release, *names, "--json", *options.split())
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["label"] for each in answers] == ["red", "green"]
    assert [each["image"] for each in answers] == names
    assert {"score", "top", "match", "match_score", "release", "known", "error"} <= set(answers[0])


def test_classify_has_a_limit_of_pixels(world, run, files):
    image = files / "large.png"
    Image.new("1", (4200, 4000)).save(image)
    what = ("classify", world.bundle_path, world.release("red", "green"), image)
    refused = run(*what)
    assert refused.exit_code == 1
    assert "an image must have 1 to 16777216 pixels; found 4200 x 4000" in refused.stdout
    assert "allow more with --max-pixels" in refused.stdout
    assert run(*what, "--max-pixels", "16800000").exit_code == 0
    assert run(*what, "--max-pixels", "999999999").exit_code == 2


def test_classify_writes_a_table(world, run, files):
    release = world.release("red", "green")
    images = (files / "bad.png", files / "red.png")
    result = run("classify", world.bundle_path, release, *images, "--csv", "--top", "3")
    table = csv.DictReader(result.stdout.splitlines())
    bad, red = table
    assert table.fieldnames == [
        *("image", "label", "score", "known", "release", "error"),
        *("label_2", "score_2", "label_3", "score_3"),
    ]
    assert (bad["label"], bad["score"], bad["release"]) == ("", "", "1")
    assert "an image must be a file in one of" in bad["error"]
    assert (red["label"], red["score"], red["label_2"]) == ("red", "1", "green")
    assert (red["known"], red["error"], red["label_3"]) == ("", "", "")  # two classes, three asked


def test_classify_takes_folders_and_patterns(world, run, files, monkeypatch):
    monkeypatch.chdir(files)
    (files / "shots" / "deep").mkdir(parents=True)
    (files / "red.png").rename(files / "shots" / "deep" / "red.png")
    (files / "green.png").rename(files / "shots" / "green.PNG")
    (files / "shots" / "notes.txt").write_text("no image")
    where = ("classify", world.bundle_path, world.release("red", "green"))
    for images in ("shots", "shots/**/*.[pP][nN][gG]"):
        lines = run(*where, images).stdout.splitlines()
        assert [line.split("  ")[0] for line in lines] == [
            *("shots/deep/red.png: red", "shots/green.PNG: green")
        ]


def test_a_folder_without_images_is_a_wrong_command_line(world, run, files):
    (files / "empty").mkdir()
    result = run("classify", world.bundle_path, world.release("red"), files / "empty")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "empty must hold image files; found none." in result.stderr
    both = run("classify", world.bundle_path, world.release("red"), files, "--csv", "--json")
    assert (both.exit_code, "Choose --csv or --json." in both.stderr) == (2, True)


def test_a_bad_image_is_reported_and_the_status_is_one(world, run, files):
    release = world.release("red", "green")
    result = run("classify", world.bundle_path, release, files / "bad.png", files / "red.png")
    assert result.exit_code == 1
    assert "bad.png: error: an image must be a file in one of" in result.stdout
    assert "red.png: red" in result.stdout
    assert result.stderr == ("Error: 1 of 2 images could not be classified; see the output.\n")


def test_an_unknown_class_is_marked(world, run, files):
    release = world.made(world.pack(0, ("blue",)), unknown_below=0.5).write(world.fresh())
    result = run("classify", world.bundle_path, release, files / "red.png")
    assert "blue (unknown: below the release's threshold)" in result.stdout


def test_a_failure_is_one_line_and_verbose_shows_where(world, run, files):
    release = world.release("red")
    blob = next((release / "blobs").iterdir())
    blob.write_bytes(blob.read_bytes()[:-1])
    arguments = ["classify", world.bundle_path, release, files / "red.png"]
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "Copy the file again from where it was published." in result.stderr
    verbose = run(*arguments, "--verbose")
    assert verbose.exit_code == 1
    assert "Traceback" in verbose.stderr
    assert "SizeError" in verbose.stderr


def test_a_wrong_command_line_is_status_two(world, run, files):
    release = world.release("red")
    assert run("classify", world.bundle_path).exit_code == 2
    assert run("classify", world.bundle_path, files / "none", "a.png").exit_code == 2
    result = run(
        "classify",
        world.bundle_path,
        release,
        files / "red.png",
        "--form",
        "fused",
        "--slots",
        "fixed",
    )
    assert result.exit_code == 2
    assert "Add form='staged'" in result.stderr


def test_info_shows_versions_bundle_and_release(world, run):
    bare = json.loads(run("info", "--json").stdout)
    kinds = (
        BUNDLE_FORMAT,
        REDUCED_FORMAT,
        PACK_FORMAT,
        RELEASE_FORMAT,
        CHANNEL_FORMAT,
        TEXT_FORMAT,
    )
    assert bare["reads"] == list(kinds)
    release = world.release("red", "green")
    report = json.loads(run("info", world.bundle_path, release, "--json").stdout)
    assert report["bundle"]["programs"] == ["plain", "pool"]
    assert report["release"]["classes"] == report["release"]["packs"] == 2
    assert report["release"]["bundle"] == report["bundle"]["digest"]
    assert "onnxruntime" in run("info", world.bundle_path, release).stdout


def test_info_shows_what_to_install_for_an_engine(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert "pip install 'edgecl-deploy[cpu]'" in run("info").stdout


def test_the_script_is_installed(monkeypatch, capsys):
    from edgecl_deploy import cli

    monkeypatch.setattr("sys.argv", ["edgecl-device", "--help"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert "classify" in capsys.readouterr().out


def test_precisions_are_shown_and_chosen(run, world, files):
    add_variant(world)
    release = licensed(with_canary(world)).write(world.fresh())
    plain = licensed(with_canary(world, 2), None).write(world.fresh())
    about = json.loads(run("info", world.bundle_path, release, "--json").stdout)
    assert (about["bundle"]["variants"], about["release"]["licences"]) == (["int8"], ["int8"])
    what = (files / "red.png", "--json", "--precision")
    floats, rounded = (
        json.loads(run("classify", world.bundle_path, release, *what, precision).stdout)
        for precision in ("float32", "int8")
    )
    assert rounded["score"] - floats["score"] == pytest.approx(0.01, abs=1e-4)
    refused = run("classify", world.bundle_path, plain, *what, "int8")
    assert refused.exit_code == 2
    assert "must have a licence for int8" in refused.stderr
