"""`make demo`: what it counts, and a short run of it."""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from edgecl.backbones.sources.package import weights_path
from edgecl_deploy.errors import SelfTestError

ROOT = Path(__file__).parents[2]
PICTURE = Image.new("RGB", (2, 2))


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo", module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAUSE", 0.001)
    return module


@dataclass
class Answer:
    release: int
    error: str | None = None


@dataclass
class FakeDevice:
    """A classifier whose every third request fails, or none."""

    failing: bool = False
    deaf: bool = False  # a swap changes nothing
    release: int = 1
    calls: list[int] = field(default_factory=list)

    def predict(self, pictures: list[Image.Image]) -> Iterator[Answer]:
        self.calls.append(self.release)
        if self.failing and len(self.calls) % 3 == 1:
            raise SelfTestError("it must answer", "nothing", "Try again.")
        error = "broken" if self.failing and len(self.calls) % 3 == 2 else None
        return iter([Answer(self.release, error)] * len(pictures))

    def swap(self, release: Path) -> int:
        number = int(release.name)
        if not self.deaf:
            self.release = number
        return number


def wait_for(device: FakeDevice, calls: int) -> None:
    patience = time.monotonic() + 20
    while len(device.calls) < calls:
        assert time.monotonic() < patience
        time.sleep(0.001)


def test_a_service_answers_while_it_takes_releases(demo: Any) -> None:
    device = FakeDevice()
    with demo.Service(device, [PICTURE]).running() as service:
        service.take(Path("2"))
        service.take(Path("3"))
    requests = service.requests
    assert (requests.answered, requests.dropped) == (len(device.calls), 0)
    assert requests.by_release == {n: device.calls.count(n) for n in set(device.calls)}
    assert min(requests.by_release[2], requests.by_release[3]) >= demo.WAIT
    assert device.calls == sorted(device.calls), "no request goes back to an older release"


def test_a_service_counts_what_it_drops(demo: Any) -> None:
    device = FakeDevice(failing=True)
    with demo.Service(device, [PICTURE]).running() as service:
        wait_for(device, 9)
    requests = service.requests
    assert requests.answered + requests.dropped == len(device.calls)
    assert requests.dropped >= 6
    assert any("broken" in error for error in requests.errors)
    assert any("it must answer" in error for error in requests.errors)


def test_a_release_that_answers_nothing_ends_the_demo(
    demo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PATIENCE", 0.1)
    with (
        demo.Service(FakeDevice(deaf=True), [PICTURE]).running() as service,
        pytest.raises(SystemExit, match="release 2 must answer requests"),
    ):
        service.take(Path("2"))


def test_sizes_of_packs_are_one_figure_or_two(demo: Any) -> None:
    assert demo.kilobytes([8364, 8388]) == "8.4"
    assert demo.kilobytes([46_990, 93_300, 277_800]) == "47 to 278"


@pytest.mark.skipif(
    not weights_path("vit-s14").exists(), reason="run `edgecl weights fetch vit-s14` first"
)
@pytest.mark.timeout(600)
def test_a_short_demo_runs(tmp_path: Path) -> None:
    short = ["--methods", "ranpac", "--tasks", "2", "--image-size", "56", "--precision", "float32"]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py", "--out", tmp_path / "demo", *short],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    ranpac = summary["methods"]["ranpac"]
    assert ranpac["a_last"] >= 0.9
    assert ranpac["device_stages"][-1] == pytest.approx(ranpac["a_last"])
    assert ranpac["agreement"] == 1
    assert (summary["updates"], summary["dropped"]) == (1, 0)
    assert summary["requests"] >= 3
    assert (tmp_path / "demo" / "report.html").stat().st_size > 1000
    assert "0 dropped" in done.stdout
    assert "edgecl train layup" in done.stdout
