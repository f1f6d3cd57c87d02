"""The file of a sweep."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgecl.sweep import SweepError, read_plan


def plan(tmp_path: Path, **found: Any) -> list[Any]:
    whole = {"methods": ["simplecil"], "streams": ["digits"], "seeds": [1]} | found
    (tmp_path / "plan.json").write_text(json.dumps(whole))
    return read_plan(tmp_path / "plan.json")


def test_each_with_each_the_seeds_outermost(tmp_path: Path) -> None:
    cells = plan(
        tmp_path,
        methods=["simplecil", {"method": "l2p", "name": "l2p-short", "set": {"pool": 6}}],
        streams=["digits", {"stream": "data/my photos", "options": {"increment": 5}}],
        seeds=[1, 2],
        options={"image-size": 56},
        set={"schedule.epochs": 1},
    )
    assert [cell.name for cell in cells[:4]] == [
        "digits-simplecil-seed1", "digits-l2p-short-seed1",
        "my-photos-simplecil-seed1", "my-photos-l2p-short-seed1",
    ]  # fmt: skip
    assert len(cells) == 8
    assert cells[3].words == (
        "l2p", "--image-size", "56", "--increment", "5", "--stream", "data/my photos",
        "--seed", "1", "--set", "schedule.epochs=1", "--set", "pool=6",
    )  # fmt: skip
    assert {cell.group for cell in cells if cell.seed == 2} == {cell.group for cell in cells[:4]}


def test_a_recipe_is_in_the_place_of_a_stream(tmp_path: Path) -> None:
    (cell,) = plan(
        tmp_path, streams=[{"options": {"recipe": "cifar100-b0-inc10", "download": True}}]
    )
    assert cell.name == "cifar100-b0-inc10-simplecil-seed1"
    assert cell.words[1:4] == ("--recipe", "cifar100-b0-inc10", "--download")


def test_what_a_run_does_not_keep_is_given_in_every_call(tmp_path: Path) -> None:
    (cell,) = plan(tmp_path, options={"workers": 2, "max-pixels": 400, "image-size": 56})
    assert cell.words[:3] == ("simplecil", "--image-size", "56")
    assert cell.of_call == ("--max-pixels", "400", "--workers", "2")


def test_values_are_typed_as_a_person_would(tmp_path: Path) -> None:
    options = {"train_styles": ["noto", "twemoji"], "download": False, "base": None}
    (cell,) = plan(tmp_path, options=options, set={"schedule.betas": [0.9, 0.99]})
    assert cell.words == (
        "simplecil", "--train-styles", "noto", "--train-styles", "twemoji", "--stream", "digits",
        "--seed", "1", "--set", "schedule.betas=[0.9, 0.99]",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ({"methods": []}, "methods must be a list with something in it"),
        ({"seeds": ["1"]}, "seeds must be whole numbers, got '1'"),
        ({"seeds": [True]}, "seeds must be whole numbers"),
        ({"colour": 1}, "got 'colour'"),
        ({"options": {"out": "x"}}, "the sweep sets itself, got 'out'"),
        ({"options": {"no-wait": True, "json": True}}, "got 'json'"),
        ({"options": []}, "options must be an object"),
        ({"methods": [{"set": {}}]}, "each of methods must be a name, or an object with a method"),
        ({"streams": [{"stream": "a", "name": ""}]}, "name in streams must be a text"),
        ({"methods": ["l2p", "l2p"]}, "got digits-l2p-seed1 twice"),
        ({"seeds": list(range(10_001))}, "more than 10000 trainings"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, found: dict[str, Any], wrong: str) -> None:
    with pytest.raises(SweepError, match=wrong):
        plan(tmp_path, **found)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="No such file"):
        read_plan(tmp_path / "none.json")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(SweepError, match="must be a JSON object"):
        read_plan(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text(" " * (1 << 20) + "{}")
    with pytest.raises(SweepError, match="more than 1048576 bytes"):
        read_plan(tmp_path / "plan.json")
