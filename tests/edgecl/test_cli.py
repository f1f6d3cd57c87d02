"""The command `edgecl`: what it prints, what it leaves behind, how it ends."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file

from edgecl.backbones import Backbone
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.methods import methods
from edgecl.reading.reader import Reading
from edgecl_deploy import commands, console
from edgecl_deploy.commands import edgecl
from edgecl_deploy.manifest import lock
from edgecl_deploy.progress import Reporter, RichReporter

MakeFolders = Callable[..., Path]


@pytest.fixture
def weights(tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a weights file, the tiny backbone filled up to twelve blocks; redirect the cache."""
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    state = tiny_backbone.model.state_dict()
    for block in range(2, 12):
        state |= {
            name.replace("blocks.0.", f"blocks.{block}."): tensor.clone()
            for name, tensor in state.items()
            if name.startswith("blocks.0.")
        }
    save_file(state, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def stream(make_folders: MakeFolders) -> Path:
    return make_folders({f"task_{hue // 2:02d}/hue-{hue}": hue for hue in range(4)})


@pytest.fixture
def arguments(tmp_path: Path, weights: Path, stream: Path) -> list[str]:
    """Return what follows `edgecl train METHOD`."""
    return [
        "--backbone", "vit-tiny-16", "--weights", str(weights), "--image-size", "32",
        "--stream", str(stream), "--out", str(tmp_path / "run"), "--device", "cpu",
    ]  # fmt: skip


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(edgecl, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize("method", ["simplecil", "l2p"])
def test_train_prints_one_json_object_and_leaves_a_run(
    arguments: list[str], tmp_path: Path, method: str
) -> None:
    settings = ["--set", "schedule.epochs=1", "--set", "pool=6"] if method == "l2p" else []
    result = invoke("train", method, *arguments, *settings, "--json")
    assert result.exit_code == 0
    metrics = json.loads(result.stdout)
    assert metrics["method"] == method
    assert metrics["tasks"] == ["task_00", "task_01"]
    run = Run.open(tmp_path / "run")
    assert len(run) == 2
    assert run.header["config"] == ({} if method == "simplecil" else run.header["config"])
    assert (tmp_path / "run" / "report.html").is_file()
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics == {**stored, "augment": None, "views": 0}
    if method == "l2p":
        assert (run.header["config"]["pool"], run.header["config"]["schedule"]["epochs"]) == (6, 1)
        assert run.header["config"]["top_k"] == 5


def test_train_augments_as_it_is_asked(arguments: list[str], tmp_path: Path) -> None:
    small = ["--set", "schedule.epochs=1", "--set", "pool=6"]
    options = ["--augment", "paper", "--views", "2", *small]
    result = invoke("train", "l2p", *arguments, *options)
    assert result.exit_code == 0
    assert "training images augmented: l2p, 2 views of each image" in result.output
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "training images augmented (l2p, 2 views of each image)" in page
    resumed = json.loads(invoke("train", "--resume", str(tmp_path / "run"), "--json").stdout)
    assert resumed["views"] == 2
    assert (resumed["augment"]["name"], resumed["augment"]["scale"]) == ("l2p", [0.05, 1.0])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--augment", "pilt"], 1, "Did you mean 'pilot'?"),
        (["--views", "4"], 1, "Add --augment paper"),
        (["--augment", "pilot", "--views", "often"], 2, "'often' is not a valid integer"),
        (["--augment", "pilot", "--views", "-1"], 1, "Give one."),
    ],
)
def test_train_refuses_views_that_cannot_be(
    options: list[str], code: int, message: str, arguments: list[str], tmp_path: Path
) -> None:
    result = invoke("train", "l2p", *arguments, *options)
    assert result.exit_code == code
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_train_that_is_not_to_wait_fails_at_once(arguments: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with lock.locked(run / ".lock"):
        result = invoke("train", "simplecil", *arguments, "--no-wait")
    assert result.exit_code == 1
    text = " ".join(result.output.replace("│", " ").split())
    assert "Try again when it has ended, or leave --no-wait out" in text
    assert invoke("train", "simplecil", *arguments, "--no-wait").exit_code == 0


def test_train_learn_and_resume_speak_to_people(
    arguments: list[str], tmp_path: Path, make_folders: MakeFolders
) -> None:
    run = str(tmp_path / "run")
    result = invoke("train", "simplecil", *arguments, "--seed", "7")
    assert result.exit_code == 0
    assert "simplecil on " in result.output
    assert "A_last" in result.output
    assert "report.html" in result.output
    root = tmp_path / "images"
    layout = "4 class folders in 2 task folders"
    lines = result.stdout.splitlines()
    assert lines[0] == f"{root}: {layout}, 20 files"
    assert any(line.startswith(f"files: 20 in {root} ({layout}): ") for line in lines[-3:])
    (root / "task_00" / "hue-0" / "000.png").unlink()
    resumed = invoke("train", "--resume", run, "--json")
    assert resumed.stderr == "1 gone since the run began: task_00/hue-0/000.png\n"
    metrics = json.loads(resumed.stdout)
    assert metrics["seed"] == 7
    assert metrics["files"][0]["total"] == 19
    root.rename(tmp_path / "moved")
    moved = invoke("train", "--resume", run, "--stream", str(tmp_path / "moved"))
    assert moved.exit_code == 0
    assert moved.output.count("since the run began") == 1, "only what is gone, as before"
    new = make_folders({"hue-4": 4}, root="new")
    result = invoke("learn", run, str(new), "--name", "one more", "--quiet")
    assert "task 2 (one more): 1 classes from 5 images" in result.output
    assert f"files: 5 in {new} (1 class folder): 5 training images, 0 test" in result.output
    record = json.loads(
        invoke("learn", run, str(make_folders({"hue-5": 5}, root="newer")), "--json").stdout
    )
    assert (record["task"], record["classes"]) == (3, ["hue-5"])


def test_options_of_images_are_stored_and_constant_pictures_counted(
    arguments: list[str], tmp_path: Path, stream: Path
) -> None:
    for name, colour in (("000.png", "grey"), ("001.png", "navy"), ("002.png", "tan")):
        Image.new("RGB", (20, 20), colour).save(stream / "task_00" / "hue-0" / name)
    options = ["--resize", "pad", "--window", "0,4095", "--background", "0,10,255"]
    options += ["--decode", "draft2"]
    options += ["--test-fraction", "0"]  # their copies may not be held out
    result = invoke("train", "simplecil", *arguments, *options)
    assert result.exit_code == 0, result.output
    spec = Run.open(tmp_path / "run").header["backbone"]
    assert (spec["fit"], spec["window"], spec["background"]) == ("pad", [0, 4095], [0, 10, 255])
    assert spec["decode"] == "draft2"
    assert "--window 0,4095" in result.output
    assert "constant training image" in result.output
    assert ".png: it has one colour" in result.output
    more = stream.parent / "more" / "hue-9"
    shutil.copytree(stream / "task_01" / "hue-2", more)
    Image.new("RGB", (20, 20), "grey").save(more / "000.png")
    result = invoke("learn", str(tmp_path / "run"), str(more.parent))
    assert "0 skipped, 1 constant\n" in result.output


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--window", "5", "'5' is not LOW,HIGH"),
        ("--window", "a,b", "'a,b' is not LOW,HIGH"),
        ("--background", "1,2", "'1,2' is not R,G,B"),
        ("--background", "1,2,3.5", "'1,2,3.5' is not R,G,B"),
        ("--resize", "stretch", "is not one of 'crop', 'pad', 'squash'"),
        ("--decode", "half", "is not one of 'full', 'draft2'"),
    ],
)
def test_options_of_images_that_make_no_sense(option: str, value: str, message: str) -> None:
    result = invoke("train", "simplecil", option, value)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--window", "9,5", "window null or two finite numbers, the lower one first"),
        ("--window", "0,inf", "window null or two finite numbers"),
        ("--background", "0,0,256", "background three bytes"),
    ],
)
def test_values_out_of_range_are_an_error(
    option: str, value: str, message: str, arguments: list[str]
) -> None:
    result = invoke("train", "simplecil", *arguments, option, value)
    assert result.exit_code == 1
    assert message in (shown := " ".join(result.output.replace("│", " ").split()))
    assert "Choose another --window" in shown


def test_train_resumes_after_a_kill(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = json.loads(invoke("train", "simplecil", *arguments, "--json").stdout)
    arguments[arguments.index("--out") + 1] = str(tmp_path / "killed")
    learn, calls = Learner.learn, []

    def dying(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return learn(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", dying)
        result = CliRunner().invoke(edgecl, ["train", "simplecil", *arguments])
    assert result.exit_code != 0
    assert len(Run.open(tmp_path / "killed")) == 1
    metrics = json.loads(invoke("train", "--resume", str(tmp_path / "killed"), "--json").stdout)
    assert metrics | {"seconds": []} == expected | {"seconds": []}


def test_lists(weights: Path) -> None:
    listed = json.loads(invoke("methods", "--json").stdout)
    assert [row["name"] for row in listed] == list(methods())
    assert all(row["paper"].startswith("https://") for row in listed)
    assert all(row["passes"] == "T" or int(row["passes"]) >= 1 for row in listed)
    shown = invoke("methods").output
    assert all(name in shown for name in methods()), "no name is cut"
    assert "…" not in shown, "nor anything else, at the width of a terminal of 80"
    assert "Bytes of the pack of task 10, 10 classes a task" in shown
    some = json.loads(invoke("methods", "--no-names", "--forgets", "class", "--json").stdout)
    assert {"simplecil"} < {row["name"] for row in some} < set(methods())
    assert {row["forgets"] for row in some} == {"class"}
    names = [row["name"] for row in json.loads(invoke("streams", "--json").stdout)]
    assert {"emoji-demo", "digits", "openemoji10"} <= set(names)
    backbones = [row["name"] for row in json.loads(invoke("weights", "list", "--json").stdout)]
    assert {"vit-s14", "vit-tiny-16"} <= set(backbones)


def test_other_distributions_add_commands() -> None:
    commands = invoke("--help").output
    assert all(name in commands for name in ("train", "learn", "export", "device"))
    assert invoke("export", "--help").exit_code == 0


# -- how it ends


def end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """Run `edgecl ARGUMENTS` as the shell does; return the exit code and standard error."""
    monkeypatch.setattr(sys, "argv", ["edgecl", *arguments])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


def test_a_failure_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    tmp_path: Path,
) -> None:
    code, error = end(monkeypatch, capsys, "train", "simplecill", *arguments)
    assert code == 1
    assert error.startswith("edgecl: METHOD must be one of ")
    assert error.endswith("got 'simplecill'. Did you mean 'simplecil'?\n")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--set", "pool"], "--set takes NAME=VALUE"),
        (["--set", "pol=3"], "Did you mean 'pool'?"),
        (["--set", "schedule.lr=fast"], "must be of type float"),
        (["--set", "top_k=11"], "Lower l2p.top_k or raise l2p.pool"),
        (["--stream", "nosuch"], "nosuch"),
        (["--backbone", "nosuch"], "nosuch"),
    ],
)
def test_wrong_values_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], tmp_path: Path, wrong: list[str], message: str,
) -> None:  # fmt: skip
    code, error = end(monkeypatch, capsys, "train", "l2p", *arguments, *wrong)
    assert (code, error.count("\n")) == (1, 1)
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "simplecil"],
        ["train", "simplecil", "--resume", "run"],
        ["train", "--resume", "run", "--increment", "2"],
        ["train", "--resume", "run", "--set", "lr=1"],
        ["train", "--resume", "run", "--seed", "1993"],
        ["data", "export"],
        ["train", "simplecil", "--device", "tpu"],
        ["train", "--increment", "two"],
        ["learn", "run"],
        ["nosuch"],
        ["data", "fetch", "nosuch"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, error = end(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "Traceback" not in error


def test_what_cannot_change_is_named_beside_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, error = end(
        monkeypatch, capsys, "train", "l2p", "--resume", "run", "--shots", "3", "--device", "cpu"
    )
    assert "got METHOD, --shots too. Leave it out" in " ".join(error.split())


def test_help_and_version_end_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--help", "--version", "-h"):
        assert end(monkeypatch, capsys, flag) == (0, "")


def test_no_run_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for command in (["train", "--resume", str(tmp_path)], ["learn", str(tmp_path), str(tmp_path)]):
        code, error = end(monkeypatch, capsys, *command)
        assert code == 1
        assert "Check the path" in error


def test_a_traceback_is_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, error = end(monkeypatch, capsys, "--verbose", "train", "--resume", str(tmp_path))
    assert code == 1
    assert "Traceback" in error
    assert "RunError" in error


def test_an_unforeseen_error_names_its_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("edgecl.catalogue.catalogue", fail)
    code, error = end(monkeypatch, capsys, "methods")
    assert (code, error) == (
        1,
        "edgecl: ZeroDivisionError: by zero (`edgecl --verbose` shows where)\n",
    )


@pytest.mark.parametrize("stop", [KeyboardInterrupt, click.Abort])
def test_a_stop_has_its_own_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop: type[BaseException]
) -> None:
    def stopped(*_: object) -> None:
        raise stop

    monkeypatch.setattr("edgecl.catalogue.catalogue", stopped)
    code, error = end(monkeypatch, capsys, "methods")
    assert (code, error.strip()) == (130, "edgecl: stopped")


def test_a_stopped_training_names_the_command_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    tmp_path: Path,
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "learn", stopped)
    code, error = end(monkeypatch, capsys, "train", "simplecil", *arguments)
    assert code == 130
    assert f"`edgecl train --resume {tmp_path / 'run'}` goes on" in error


def test_bars_are_for_people_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert type(console.reporter_for(as_json=False, quiet=False)) is RichReporter
    assert type(console.reporter_for(as_json=True, quiet=False)) is Reporter
    assert type(console.reporter_for(as_json=False, quiet=True)) is Reporter
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert type(console.reporter_for(as_json=False, quiet=False)) is Reporter


def test_bars_count_and_say(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = RichReporter()
    with reporter.bar("images", 3) as advance:
        advance()
        advance(2)
    reporter.say("done")
    assert "done" in capsys.readouterr().err


def test_trainings_of_several_seeds_share_one_order_of_classes(
    tmp_path: Path, weights: Path, make_folders: MakeFolders
) -> None:
    """And `natural` is the order of the data set."""
    names = {f"hue-{hue}": hue for hue in range(5)}
    images = make_folders(names, root="flat")
    own = ("--backbone", "vit-tiny-16", "--weights", str(weights), "--image-size", "32")
    orders = {}
    for number, choice in enumerate((
        ("--seed", "1", "--class-seed", "3"), ("--seed", "2", "--class-seed", "3"),
        ("--seed", "3"), ("--class-seed", "natural"),
    )):  # fmt: skip
        out = tmp_path / str(number)
        more = ("--stream", str(images), "--increment", "1", "--out", str(out), "--json")
        result = invoke("train", "simplecil", *own, *more, *choice)
        assert result.exit_code == 0, result.output
        run = Run.open(out)
        found = [name for record in run.records() for name in record.classes]
        orders[choice] = found, run.header["seed"], run.header["stream"]["seed"]
    one, two, three, natural = orders.values()
    assert (one[1:], two[1:], three[1:], natural[1:]) == ((1, 3), (2, 3), (3, 3), (1993, None))
    assert one[0] == two[0] == three[0] != natural[0]
    assert natural[0] == list(names)


def test_a_class_seed_is_a_number_or_natural(arguments: list[str]) -> None:
    result = invoke("train", "simplecil", *arguments, "--class-seed", "alphabetical")
    assert result.exit_code == 2
    assert "'alphabetical' is not a valid integer" in " ".join(result.output.split())


def test_how_images_are_read_is_asked_of_every_command(
    arguments: list[str], tmp_path: Path, make_folders: MakeFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Reading] = []

    def note(learner: Learner) -> None:
        learner_begins(learner)
        found.append(learner.reading)

    learner_begins = Learner.__post_init__
    monkeypatch.setattr(Learner, "__post_init__", note)
    asked = ["--workers", "3", "--image-memory", "1k"]
    run = str(tmp_path / "run")
    assert invoke("train", "simplecil", *arguments, *asked).exit_code == 0
    assert invoke("train", "--resume", run, *asked).exit_code == 0
    assert invoke("learn", run, str(make_folders({"hue-5": 5}, root="new")), *asked).exit_code == 0
    assert found == [Reading(3, 1000)] * 3


def test_a_memory_that_is_no_number(arguments: list[str]) -> None:
    result = invoke("train", "simplecil", *arguments, "--image-memory", "much")
    assert result.exit_code == 2
    assert "Write for example 20G" in " ".join(result.stderr.split())
