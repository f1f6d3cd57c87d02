import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from tests.edgecl.report.pages import (
    HOSTILE,
    Page,
    figures,
    make_run,
    with_classes,
    written,
)

from edgecl import report
from edgecl.learning import runs
from edgecl_deploy.manifest.whole import TEMPORARY


def test_report_shows_the_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", histogram={"0": 5, "7": 15})
    page = written(run)
    found = json.loads((run / "metrics.json").read_text())
    assert (run / "report.html").exists()
    for figure in (found["a_last"], found["a_avg"], found["task_id_accuracy"]):
        assert f"{figure * 100:.1f} %" in page.text
    assert "points forgotten 15.0" in page.text  # losses of 0.2 and 0.1
    assert "points of backward transfer −15.0" in page.text
    assert "class-incremental (CIL)" in page.text
    assert "Every test image is classified among all classes learned so far" in page.text
    assert "7.7 KB" in page.text
    assert "23.0 KB" in page.text  # all three
    assert "schedule.lr 0.01" in page.text
    assert "schedule.clip none" in page.text
    assert "Use of the pool" in page.text
    assert "6 0 0.0 % 7 15 75.0 %" in page.text  # entries that nobody matched are shown
    assert "Skipped images (1)" in page.text


def test_report_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", histogram={"0": 5, "7": 15})
    with_classes(made, figures(mistakes=3))
    page = written(made)
    assert len(page.named("img")) == 4
    loading = {
        "script",
        "link",
        "image",
        "iframe",
        "object",
        "embed",
        "use",
        "base",
        "video",
    }
    assert not loading & {name for name, _ in page.elements}
    for name, attributes in page.elements:
        for attribute, value in attributes.items():
            assert not attribute.startswith("on")
            if (name, attribute) == ("img", "src"):
                assert (value or "").startswith("data:image/jpeg;base64,")
                continue
            assert attribute not in {"src", "srcset", "background", "action", "xlink:href"}
            if attribute == "href":
                assert name == "a"
            elif "//" in (value or ""):
                raise AssertionError(f"{name} {attribute}={value}")
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert "//" not in page.style
    policy = [meta for meta in page.named("meta") if meta.get("http-equiv")]
    assert policy[0]["content"] == ("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_names_are_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", stream=HOSTILE, tasks=2, not_evaluated=(HOSTILE,))
    page = written(run)  # the parser checks that every element is closed in order
    assert not page.named("script")
    assert page.text.count(HOSTILE) >= 6  # title, stream, classes, skipped, configuration
    unknown = written(make_run(tmp_path / "other", method=HOSTILE, setting={"protocol": HOSTILE}))
    assert not unknown.named("script")
    assert f"{HOSTILE} on emoji-demo" in unknown.text


def test_pictures_have_names_and_tables(tmp_path: Path) -> None:
    page = written(make_run(tmp_path / "run", histogram={"0": 5, "7": 15}))
    pictures = page.named("svg")
    assert len(pictures) == 6
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    # Matrix, curves, confusion, histogram, tasks, configuration.
    assert len(page.named("caption")) == 6
    assert len(page.named("table")) == 6
    headings = [name for name, _ in page.elements if name in {"h1", "h2", "h3"}]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert page.named("html")[0]["lang"] == "en"


def test_both_colour_schemes_and_phones(tmp_path: Path) -> None:
    page = written(make_run(tmp_path / "run"))
    assert "prefers-color-scheme: dark" in page.style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.named(
        "meta"
    )


def test_same_run_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", histogram={"0": 5, "7": 15})
    first = report.write_report(run).read_bytes()
    assert report.write_report(run).read_bytes() == first
    assert [file.name for file in run.iterdir() if file.name.startswith(TEMPORARY)] == []
    elsewhere = make_run(tmp_path / "elsewhere", histogram={"0": 5, "7": 15})
    assert report.write_report(elsewhere).read_bytes() == first


def test_a_failed_write_leaves_the_former_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    (run / "report.html").write_text("former")

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        report.write_report(run)
    assert (run / "report.html").read_text() == "former"


def test_curves_are_one_where_the_definitions_agree(tmp_path: Path) -> None:
    unequal = make_run(tmp_path / "unequal")
    pooled = json.loads((unequal / "metrics.json").read_text())["pooled"]
    equal = written(make_run(tmp_path / "equal", task_mean=tuple(pooled)))
    assert "Pooled and mean of tasks agree" in equal.text
    assert len(equal.named("polyline")) == 1
    page = written(unequal)
    assert "Pooled and mean of tasks agree" not in page.text
    assert len(page.named("polyline")) == 2


def test_a_matcher_without_a_pool_has_no_histogram(tmp_path: Path) -> None:
    page = written(make_run(tmp_path / "run", method="simplecil", histogram={"0": 60}))
    assert "Use of the pool" not in page.text
    assert "Inferred task" in page.text


@pytest.mark.parametrize("tasks", [1, 2, 40])
def test_any_number_of_tasks(tmp_path: Path, tasks: int) -> None:
    page = written(make_run(tmp_path / "run", tasks=tasks, loss=0.9 / tasks))
    grid = [rect for rect in page.named("rect") if rect.get("class") in {"cell", "empty"}]
    assert len(grid) == 2 * (tasks * tasks + 6)  # matrix and confusion, six boxes of legend each
    for name, attributes in page.elements:
        for side in ("width", "height", "x", "y", "cx", "cy", "fill-opacity"):
            if name in {"rect", "circle"} and side in attributes:
                assert float(attributes[side] or "") >= 0


def test_a_cell_of_accuracy_zero_says_zero(tmp_path: Path) -> None:
    changes = {"matrix": ((0.5,), (0.0, 1.0)), "task_confusion": ((0, 5), (0, 9))}
    page = written(make_run(tmp_path / "run", tasks=2, **changes))
    cells = [text["class"] for text in page.named("text") if text.get("class")]
    assert len([name for name in cells if name in {"low", "mid", "high"}]) == 7
    assert "50.0 % 50 0.0 % 0 100.0 % 100" in page.text  # each cell's hint and its text
    assert "0.0 % 0 100.0 % 100 0.0 % · 100.0 % 100" in page.text  # a dot only off the diagonal


def test_equal_lines_stay_visible(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name, loss=0.1) for name in ("one", "two")]
    page = Page(report.write_comparison(paths, tmp_path / "out.html").read_text(encoding="utf-8"))
    styles = [line["style"] for line in page.named("polyline")]
    assert styles == ["stroke-width:5.5", "stroke-width:2.5"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.048, "48 ms"), (1.0, "1.0 s"), (59.6, "60 s"), (185.0, "3 min 05 s")],
)
def test_durations_have_a_fitting_unit(tmp_path: Path, seconds: float, words: str) -> None:
    page = written(make_run(tmp_path / "run", tasks=1, seconds=(seconds,)))
    assert f"of learning {words}" in page.text


def test_tasks_without_evaluation_are_listed(tmp_path: Path) -> None:
    page = written(make_run(tmp_path / "run", tasks=2, late=1))
    assert "1 task learned later without test images of all tasks (task-2)" in page.text
    assert "3 task-2 2 32 – – – – – 4.5 s 0" in page.text


def test_what_the_workstation_stores_is_told(tmp_path: Path) -> None:
    nothing = written(make_run(tmp_path / "a"))
    assert "stores nothing but what ships and one training image per task" in nothing.text
    changes = {"state_bytes": (0, 0, 8000), "exemplars": (0, 0, 12)}
    text = written(make_run(tmp_path / "b", **changes)).text
    assert "the workstation stores 8.0 KB for later ones, 12 training images among it" in text


def test_runs_are_compared(tmp_path: Path) -> None:
    simple = make_run(tmp_path / "a" / "simplecil", method="simplecil", loss=0.01)
    pool = make_run(tmp_path / "b #1", method="l2p", loss=0.1, seconds=(1.0, 1.0, 1.0))
    report.write_report(pool)
    out = tmp_path / "a" / "comparison.html"
    assert report.write_comparison([simple, pool], out) == out
    page = Page(out.read_text(encoding="utf-8"))
    assert len(page.named("polyline")) == 2
    assert "SimpleCIL" in page.text
    # The one report that exists is linked, relative to the page.
    assert [link["href"] for link in page.named("a")] == ["../b%20%231/report.html"]
    best = [attributes for attributes in page.named("span") if attributes.get("class") == "best"]
    assert len(best) == 5  # last, average, forgetting, transfer; seconds; no ties
    assert "3 tasks, seed 1993" in page.text
    assert not [name for name, _ in page.elements if name == "script"]


SQUARE = ((0.9, 0.5, 0.3), (0.8, 0.9, 0.4), (0.7, 0.8, 0.9))


def test_figures_by_name_are_shown_with_their_oracle(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", setting={"protocol": "mtil"}, square=SQUARE)
    page = written(run)
    assert "Transfer label set of the image's task 42.5 %" in page.text  # 0.5 and 0.35
    assert "CI-Transfer none 40.0 %" in page.text  # 0.4 and 0.4
    assert "task-0 – 80.0 % 70.0 %" in page.text  # the first task has no Transfer
    assert "multi-domain task-incremental (MTIL)" in page.text
    pictures = [label["aria-label"] for label in page.named("svg")]
    assert sum("learned or not" in str(label) for label in pictures) == 2


def test_without_them_the_page_has_no_figures_by_name(tmp_path: Path) -> None:
    text = written(make_run(tmp_path / "run")).text
    assert "Transfer" not in text
    assert "By name" not in text


def test_comparison_has_figures_by_name_where_a_run_has_them(tmp_path: Path) -> None:
    known = make_run(tmp_path / "a", square=SQUARE)
    paths = [known, make_run(tmp_path / "b", method="simplecil")]
    for runs_shown, there in ((paths, True), (paths[1:], False)):
        file = report.write_comparison(runs_shown, tmp_path / "out.html")
        page = Page(file.read_text(encoding="utf-8"))
        assert ("Transfer (label set given)" in page.text) is there
        assert ("CI-Transfer" in page.text) is there


def test_comparison_warns_of_unlike_runs(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / "one"), make_run(tmp_path / "two", setting={"seed": 7}, tasks=2)]
    text = Page(
        report.write_comparison(paths, tmp_path / "out.html").read_text(encoding="utf-8")
    ).text
    assert "compare them with care" in text
    assert "one (L2P)" in text
    assert "two (L2P)" in text


def test_lines_that_end_together_keep_their_names_apart(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / f"run-{index}", loss=0.1) for index in range(10)]
    page = Page(report.write_comparison(paths, tmp_path / "out.html").read_text(encoding="utf-8"))
    names = [text for text in page.named("text") if text.get("class") == "name"]
    heights = sorted(float(text["y"] or "") for text in names)
    assert len(heights) == 10
    assert all(after - before >= 15.9 for before, after in pairwise(heights))
    assert sum("stroke-dasharray" in line for line in page.named("polyline")) == 2


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(runs.RunError, match="Check the path"):
        report.write_report(tmp_path)
    run = make_run(tmp_path / "run")
    (run / "metrics.json").write_text('{"format": "edgecl-metrics/9"}')
    with pytest.raises(report.ReportError, match=r"metrics/9'.* --resume .*writes it again"):
        report.write_report(run)
    (run / "metrics.json").write_text('{"format": "edgecl-metrics/3"}')
    with pytest.raises(report.ReportError, match=r"with the field 'method'.* train --resume .*run"):
        report.write_report(run)
    (run / "metrics.json").write_text("[")
    with pytest.raises(report.ReportError, match=r"train --resume .*run"):
        report.write_report(run)
    (run / "metrics.json").unlink()
    with pytest.raises(report.ReportError, match=r"train --resume .*run"):
        report.write_report(run)
    with pytest.raises(report.ReportError, match="Name the run folders"):
        report.write_comparison([], tmp_path / "out.html")
