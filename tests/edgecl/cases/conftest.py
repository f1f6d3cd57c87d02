"""What the cases share: a bundle that is exported once, a learned run, more images, the command."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgecl.backbones import Backbone
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.session import learn_stream
from edgecl.streams import Stream
from edgecl_deploy import commands
from edgecl_export.bundle import export_program

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
MakeFolders = Callable[..., Path]
Command = Callable[..., Result]


@pytest.fixture(scope="session")
def simplecil_bundle(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of simplecil on the tiny backbone."""
    bundle = tmp_path_factory.mktemp("cases") / "bundle"
    program = build_method("simplecil", BackboneSpec.of(tiny_backbone), {}).program
    export_program(program, tiny_backbone, bundle)
    return bundle


@pytest.fixture
def learned(make_learner: MakeLearner, make_stream: MakeStream) -> Callable[..., Learner]:
    """Return a function that learns a stream of two tasks of two classes."""

    def make(method: str = "simplecil", out: str = "run") -> Learner:
        stream = make_stream(((0, 1), (2, 3)))
        learner = make_learner(method, stream, out=out)
        learn_stream(learner, stream)
        return learner

    return make


@pytest.fixture
def more(make_folders: MakeFolders) -> Path:
    return make_folders({"hue-4": 4, "hue-5": 5}, root="more")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs `edgecl ...`; the commands need not be installed."""
    points = {
        name: EntryPoint(name, f"edgecl.cli.life:{name}", "edgecl.commands")
        for name in ("undo", "classes", "runs")
    }
    points["forget"] = EntryPoint("forget", "edgecl.cli.forget:forget", "edgecl.commands")
    known = dict(commands.plugins())
    monkeypatch.setattr(commands, "plugins", lambda: {**known, **points})

    def run(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(commands.edgecl, [str(each) for each in arguments])
        assert result.exit_code == code, result.output
        return result

    return run
