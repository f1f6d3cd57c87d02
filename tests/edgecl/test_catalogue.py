"""The catalogue says what ships, as the methods declare it; the status is what was done."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

from edgecl.backbones import Backbone
from edgecl.backbones.spec import BackboneSpec
from edgecl.catalogue import (
    CLASSES,
    TASK,
    Shipped,
    catalogue,
    entry,
    fitting,
    in_words,
    place,
    shipped,
    size,
)
from edgecl.methods import build_method, methods
from edgecl.methods.status import Status

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
WIDTH, DEPTH = 384, 11  # of vit-s14
EQUAL = 1e-4  # the largest relative difference that counts as none


@pytest.fixture(scope="module")
def ships() -> dict[str, dict[str, Shipped]]:
    return {each.name: each.ships for each in catalogue()}


def test_all_methods_are_there_in_order() -> None:
    assert [each.name for each in catalogue()] == list(methods())


def test_bytes_by_hand(ships: dict[str, dict[str, Shipped]]) -> None:
    rows = 2 * CLASSES * WIDTH
    adapter = 2 * DEPTH * (2 * 64 * WIDTH + 64 + WIDTH)
    assert ships["simplecil"]["appended"] == Shipped(rows, ("prototypes",))
    assert ships["simplecil"]["once"] == ships["simplecil"]["replaced"] == Shipped(0, ())
    assert ships["aper-adapter"]["once"].bytes == adapter
    assert ships["aper-adapter"]["appended"].bytes == 2 * rows, "the means of two branches"
    classes = CLASSES * TASK
    ridge = ships["ranpac"]
    assert ridge["once"].bytes == adapter
    assert ridge["replaced"].bytes == classes * (2 * 2000 + 4), "the scales need float32"
    assert ridge["appended"].bytes == 0
    assert "projection" not in {name for kind in ridge.values() for name in kind.tensors}
    assert ships["ease"]["appended"].bytes == adapter + 4, "an adapter, and how many rows it adds"
    assert ships["ease"]["replaced"].bytes == 2 * classes * TASK * WIDTH
    heads = ships["vpt-shallow"]
    assert heads["once"] == Shipped(2 * 5 * WIDTH, ("prompts",))
    assert heads["appended"].bytes == rows + 2 * CLASSES
    assert not ships["c-ada"]["replaced"].tensors, "what its docstring says"


def test_an_entry_is_of_its_configuration(tiny_backbone: Backbone) -> None:
    spec = BackboneSpec.of(tiny_backbone)
    plain = build_method("ranpac", spec, {"first_session": "none"})
    assert not shipped(plain, 2, 2)["once"].tensors
    frozen = entry(build_method("ease", spec, {"beta": 1.0}))
    assert frozen.passes == "T + 1"
    assert "plain_prototypes" in frozen.ships["appended"].tensors
    assert entry(build_method("ease", spec)).passes == "T"


def test_methods_by_what_is_asked_for() -> None:
    entries = catalogue()
    assert fitting(entries) == entries
    for each in entries:
        method = build_method(each.name, place(methods()[each.name].needs_text))
        assert each in fitting(entries, names=method.needs_text)
        assert each not in fitting(entries, names=not method.needs_text)
        assert (each in fitting(entries, enrols=True)) == (method.program.enrol is not None)
        can = {"class": {"rows", "sums"}, "task": {"rows", "sums", "tasks"}}
        for what, kinds in can.items():
            assert (each in fitting(entries, forgets=what)) == (method.forgets in kinds)
    one = {each.name for each in fitting(entries, passes=1)}
    assert {"simplecil", "ranpac"} <= one
    assert not {"ease", "l2p"} & one, "one pass per task is not one pass"
    asked = {"names": False, "passes": 1, "forgets": "class", "enrols": True}
    assert {each.name for each in fitting(entries, **asked)} >= {"layup", "ranpac", "simplecil"}


def test_words_for_people() -> None:
    ships = {"once": Shipped(1_091_200, ("a",)), "appended": Shipped(0, ())}
    ships["replaced"] = Shipped(7_680, ("b",))
    assert in_words(ships) == "1.1 MB once, 8 KB replaced"
    assert [size(count) for count in (0, 4, 999, 1000, 1_000_000)] == [
        "", "4 B", "999 B", "1 KB", "1.0 MB",
    ]  # fmt: skip


def test_the_status_has_the_figures_of_the_pages() -> None:
    """The status is set in a method's class; what a page holds of a method is there, and no more.

    Steps are those of results/mathematics.md. Points are those of benchmarks/fidelity.py, of rows
    in which nothing was changed for an experiment, and of a section of results/fidelity_vlm.md.
    """
    page = (RESULTS / "mathematics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|(?:[^|]*\|){2} ([^|]+) \|", page, re.MULTILINE)
    steps = {name: each.status.steps for name, each in methods().items()}
    assert dict(rows) == {
        name: f"{figure:.0e}".replace("e-0", "e-") for name, figure in steps.items() if figure
    }
    assert len(rows) == len(dict(rows))
    assert all(figure <= EQUAL for figure in steps.values() if figure)

    ours = json.loads((RESULTS / "fidelity.json").read_text())["runs"]
    theirs = json.loads((RESULTS / "fidelity_reference.json").read_text())["rows"]
    plain = {row["method"]: [] for row in theirs}
    for row in theirs:
        if row["implementation"] in {"PILOT", "PILOT, more seeds, bfloat16"}:
            plain[row["method"]] += [run["a_last"] for run in row["runs"]]
    sections = re.findall("^## (.+)$", (RESULTS / "fidelity_vlm.md").read_text(), re.MULTILINE)
    for name, each in methods().items():
        points = each.status.points
        assert (points is not None) == (name in plain or each.title in sections), name
        if name in plain:
            own = [row["a_last"] for row in ours if row["method"] == name]
            assert points == pytest.approx(100 * (mean(own) - mean(plain[name])), abs=0.06), name


def test_status_in_words() -> None:
    assert str(Status()) == "tested"
    assert str(Status(public=False)) == "tested, no public code"
    held = Status(steps=3.2e-6, points=-1.25)
    assert str(held) == "equal steps (3e-6), compared accuracy (-1.2)"
    found = next(each for each in catalogue() if each.name == "c-ada").to_json()["status"]
    assert found == {
        "steps": None, "points": None, "public": False, "words": "tested, no public code",
    }  # fmt: skip
