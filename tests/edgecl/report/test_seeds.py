"""The page that compares several seeds of several methods."""

import json
import statistics
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.edgecl.report.pages import Page, make_run

from edgecl import report
from edgecl.learning.augment.augmentation import Augmentation

LOSSES = {"simplecil": (0.01, 0.02, 0.03), "l2p": (0.1, 0.12, 0.16)}


def compared(paths: list[Path], tmp_path: Path) -> Page:
    out = report.write_comparison(paths, tmp_path / "out.html")
    return Page(out.read_text(encoding="utf-8"))


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, list[Path]]:
    return {
        method: [
            make_run(tmp_path / f"{method}-{seed}", method, loss=loss, setting={"seed": seed})
            for seed, loss in enumerate(losses)
        ]
        for method, losses in LOSSES.items()
    }


def test_seeds_of_a_method_are_one_row_with_their_mean_and_spread(
    runs: dict[str, list[Path]], tmp_path: Path
) -> None:
    page = compared([*runs["l2p"], *runs["simplecil"]], tmp_path)
    for method, title in (("simplecil", "SimpleCIL"), ("l2p", "L2P")):
        # the three tasks have 10, 20 and 30 test images, and lost 2, 1 and 0 times the loss
        last = [0.95 - loss * (2 * 10 + 20) / 60 for loss in LOSSES[method]]
        mean, spread = statistics.fmean(last), statistics.stdev(last)
        assert f"{title} 3 {100 * mean:.1f} % ± {100 * spread:.1f} %" in page.text
    assert "3 tasks, seeds 0, 1, 2" in page.text
    assert "compare them with care" not in page.text
    assert len(page.named("polyline")) == 2
    assert "sample standard deviation (n - 1)" in page.text
    assert "Each run" in page.text
    assert "l2p-1 (L2P)" in page.text
    assert "The methods, over their seeds" in [each for each in page.words if "seeds" in each]


def test_a_method_with_one_seed_has_no_spread(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    page = compared([*runs["l2p"], runs["simplecil"][0]], tmp_path)
    assert "SimpleCIL 1 94.3 % 94.7 %" in page.text
    assert "compare them with care" in page.text, "the methods have other seeds"


def test_what_differs_in_more_than_the_seed_is_no_sample(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", setting={"seed": 1})
    twice = make_run(tmp_path / "twice", setting={"seed": 1})
    other = make_run(tmp_path / "other", setting={"seed": 2, "stream": "another"})
    text = compared([one, twice, other], tmp_path).text
    assert "±" not in text
    assert all(f"{name} (L2P)" in text for name in ("one", "twice", "other"))


def test_runs_that_augment_and_runs_that_do_not_are_two_rows(tmp_path: Path) -> None:
    paths = []
    augment = {"name": "coda", **asdict(Augmentation())}
    for name, plan in (("a", {}), ("b", {"augment": augment, "views": 4})):
        for seed in (1, 2):
            path = make_run(tmp_path / f"{name}{seed}", setting={"seed": seed})
            header = json.loads((path / "run.json").read_text())
            (path / "run.json").write_text(json.dumps({**header, **plan}))
            paths.append(path)
    page = compared(paths, tmp_path)
    assert "a1, ... (L2P) 2" in page.text
    assert "b1, ... (L2P) 2" in page.text


@pytest.mark.parametrize(
    "stream",
    [{"shots": 5}, {"hold_out": ["task_1"]}, {"root": "/other"}, {"class_order": ["b", "a"]},
     {"seed": None}],
)  # fmt: skip
def test_runs_on_other_images_are_two_rows(stream: dict[str, object], tmp_path: Path) -> None:
    """Seeds of the class order differ in each group."""
    paths = []
    for name, options in (("a", {}), ("b", stream)):
        for seed in (1, 2):
            path = make_run(tmp_path / f"{name}{seed}", setting={"seed": seed})
            header = json.loads((path / "run.json").read_text())
            header["stream"] = {"name": "emoji-demo", "root": "/one", "seed": seed, **options}
            (path / "run.json").write_text(json.dumps(header))
            paths.append(path)
    page = compared(paths, tmp_path)
    assert "a1, ... (L2P) 2" in page.text
    assert "b1, ... (L2P) 2" in page.text


def test_two_settings_of_one_method_are_two_rows(tmp_path: Path) -> None:
    paths = []
    for config in ("a", "b"):
        for seed in (1, 2):
            path = make_run(tmp_path / f"{config}{seed}", setting={"seed": seed})
            header = (path / "run.json").read_text().replace('"top_k": 5', f'"kind": "{config}"')
            (path / "run.json").write_text(header)
            paths.append(path)
    page = compared(paths, tmp_path)
    assert "a1, ... (L2P) 2" in page.text
    assert "b1, ... (L2P) 2" in page.text
    assert len(page.named("polyline")) == 2
