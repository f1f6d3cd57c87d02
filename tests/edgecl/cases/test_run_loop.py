"""Two processes change one run with random commands and are killed at random.

After every round the run is whole: it can be exported, released and continued.
"""

import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecl.backbones import Backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.changes import classes_of, merge_classes, rename_class
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run, RunError
from edgecl.learning.training import Compute
from edgecl.methods import build_method
from edgecl.session import learn_folder, learn_stream, make_learner, new_learner, undo
from edgecl.streams import Stream
from edgecl_deploy import Classifier
from edgecl_deploy.files import read_packs
from edgecl_deploy.progress import Reporter
from edgecl_export.bundle import export_program
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

DONE, REFUSED, FAILED = 0, 3, 4
NAMES = [f"name {number}" for number in range(30)]
MOST_TASKS = 8
COMMANDS = ("learn", "learn", "learn", "undo", "undo", "rename", "merge", "export")


@dataclass
class Site:
    """A run, its packs, and what tries them."""

    root: Path
    run: Path
    bundle: Path
    backbone: Backbone
    images: list[Path]

    @property
    def packs(self) -> Path:
        return self.root / "packs"

    def learner(self) -> Learner:
        cache = FeatureCache(None, self.backbone.digest)
        compute = Compute(torch.device("cpu"))
        return make_learner(Run.open(self.run), self.backbone, compute, Reporter(), cache)

    def folder(self, name: str, rng: random.Random) -> Path:
        """Write images of one class or two."""
        folder = self.root / "new" / name
        for each in rng.sample(NAMES, rng.randint(1, 2)):
            (folder / each).mkdir(parents=True)
            for number, image in enumerate(rng.sample(self.images, 2)):
                shutil.copy(image, folder / each / f"{number}.png")
        return folder


def act(site: Site, name: str, seed: int) -> None:
    """Run one random command."""
    rng = random.Random(seed)  # noqa: S311
    command = rng.choice(COMMANDS)
    run = Run.open(site.run)
    if len(run) >= MOST_TASKS:
        command = "undo"
    if command == "learn":
        learn_folder(site.learner(), site.folder(name, rng), leave_stream=True)
    elif command == "undo":
        undo(run)
    elif command == "export":
        export_packs(run, site.packs)
    else:
        with run.reading():
            known = [each.name for each in classes_of(run.records())]
        if not known:
            return
        if command == "rename" or len(known) < 2:
            rename_class(run, rng.choice(known), f"{rng.choice(NAMES)} {name}")
        else:
            merge_classes(run, *rng.sample(known, 2))


def child(site: Site, name: str, seed: int) -> int:
    """Run one random command in a forked process; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        torch.set_num_threads(1)
        act(site, name, seed)
        code = DONE
    except RunError:
        code = REFUSED
    except BaseException:
        (site.root / "failures").mkdir(exist_ok=True)
        (site.root / "failures" / name).write_text(traceback.format_exc())
    finally:
        os._exit(code)


def check(site: Site, number: int) -> None:
    """Check that the run is whole, and can be exported and released."""
    run = Run.open(site.run)
    with run.writing():  # what the next command would finish
        pass
    assert not (site.run / ".names.json").exists()
    assert [record.task for record in run.records()] == list(range(len(run)))
    folders = sorted(path.name for path in (site.run / "tasks").iterdir())
    assert folders == [f"{task:03d}" for task in range(len(run))]
    run.state()
    ids = export_packs(run, site.packs)
    assert ids == export_packs(run, site.root / f"fresh-{number}")
    assert list(read_packs(site.packs)[0]) == ids
    release = site.root / f"release-{number}"
    export_release(site.packs, release, site.bundle)
    device = Classifier.open(site.bundle, release)
    assert device.classes == tuple(each.name for each in classes_of(run.records()))
    for left in (f"fresh-{number}", f"release-{number}", "new"):
        shutil.rmtree(site.root / left, ignore_errors=True)


def rounds(site: Site, count: int) -> dict[str, int]:
    """Let two processes act and be killed, so many times; return how they ended."""
    rng = random.Random(7)  # noqa: S311
    ends = {"done": 0, "refused": 0, "killed": 0}
    for number in range(count):
        children = [child(site, f"{number}-{each}", rng.getrandbits(32)) for each in range(2)]
        for pid in children:
            if rng.random() < 0.6:
                time.sleep(rng.random() * 0.2)
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            _, status = os.waitpid(pid, 0)
            if os.WIFSIGNALED(status):
                ends["killed"] += 1
                continue
            code = os.WEXITSTATUS(status)
            assert code != FAILED, "\n".join(
                path.read_text() for path in (site.root / "failures").iterdir()
            )
            ends["done" if code == DONE else "refused"] += 1
        if not len(Run.open(site.run)):  # all was taken back
            learn_folder(site.learner(), site.folder(f"{number}-again", rng), leave_stream=True)
        check(site, number)
    learn_folder(site.learner(), site.folder("last", rng))
    check(site, count)
    return ends


@pytest.fixture
def make_site(
    tiny_backbone: Backbone,
    make_stream: Callable[..., Stream],
    small_config: Callable[..., dict[str, Any]],
    simplecil_bundle: Path,
    make_folders: Callable[..., Path],
    tmp_path: Path,
) -> Callable[[str], Site]:
    """Return a function that learns the first task of a run."""

    def make(method: str) -> Site:
        bundle, config = simplecil_bundle, small_config(method)
        if method != "simplecil":
            bundle = tmp_path / "bundle"
            program = build_method(method, BackboneSpec.of(tiny_backbone), config).program
            export_program(program, tiny_backbone, bundle)
        root = make_folders({f"hue-{hue}": hue for hue in range(6)}, count=4)
        stream = make_stream(((0, 1),))
        learner = new_learner(
            tmp_path / "run", method, tiny_backbone, stream, config=config, seed=0, keep=2,
            compute=Compute(torch.device("cpu")), cache=FeatureCache(None, ""),
        )  # fmt: skip
        learn_stream(learner, stream)
        return Site(tmp_path, learner.run.path, bundle, tiny_backbone, sorted(root.rglob("*.png")))

    return make


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_ten_rounds(make_site: Callable[[str], Site]) -> None:
    ends = rounds(make_site("simplecil"), 10)
    assert sum(ends.values()) == 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("method", "count"), [("simplecil", 200), ("ranpac", 100)])
def test_many_rounds(
    make_site: Callable[[str], Site], method: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.perf_counter()
    ends = rounds(make_site(method), count)
    with capsys.disabled():
        print(f"\n{method}, {count} rounds: {ends} in {time.perf_counter() - began:.0f} s")  # noqa: T201
    assert all(ends.values())
