"""The catalogue says what ships, as the methods declare it; the status is what was done."""

import json
import re
from pathlib import Path

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

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
WIDTH, DEPTH = 384, 11  # of vit-s14


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


def test_who_was_compared_has_figures_and_who_has_figures_was_compared() -> None:
    """The status is set in a method's class.

    The figures are those of benchmarks/fidelity.py and, of vision-language methods, the tables of
    results/fidelity_vlm.md, a section each.
    """
    ours = json.loads((RESULTS / "fidelity.json").read_text())["runs"]
    theirs = json.loads((RESULTS / "fidelity_reference.json").read_text())["rows"]
    both = {row["method"] for row in ours} & {row["method"] for row in theirs}
    sections = re.findall("^## (.+)$", (RESULTS / "fidelity_vlm.md").read_text(), re.MULTILINE)
    vlm = {name for name, method in methods().items() if method.title in sections}
    compared = {name for name, method in methods().items() if method.status == "compared"}
    assert compared == both & set(methods()) | vlm, (
        "set the method's `status`; forms have rows besides"
    )
