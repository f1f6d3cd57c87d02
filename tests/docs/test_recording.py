"""The recording of the tour: what the script makes of a terminal, and what is committed."""

import importlib.util
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TEXT = "{http://www.w3.org/2000/svg}text"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = ROOT / "scripts" / "record_terminal.py"
    spec = importlib.util.spec_from_file_location("record_terminal", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "record_terminal", module)  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


def texts(picture: Any) -> list[str]:
    """The rows of a picture that are not empty, their runs joined."""
    return [" ".join(run.text for run in line) for line in picture if line]


def test_a_command_runs_in_a_terminal_with_colours(script: Any, tmp_path: Path) -> None:
    status, printed = script.output(
        "tput setaf 2; tput cols; test -t 1 && echo ü; exit 3", tmp_path
    )
    assert status == 3
    said = "".join(text for _, text in printed)
    assert str(script.COLUMNS) in said
    assert "ü" in said
    assert "\x1b[32m" in said


def test_a_command_that_fails_is_no_recording(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SETUP", "true")
    monkeypatch.setattr(script, "COMMANDS", ("# first", "echo broken; exit 1"))
    with pytest.raises(SystemExit, match="must succeed, but ended with 1:\nbroken"):
        script.record(tmp_path)


def test_what_is_printed_appears_at_its_time(script: Any) -> None:
    events = [(0.0, "one\r\n"), (0.5, "\x1b[31mtwo\x1b[0m three\r\n"), (0.01, "four\r\n")]
    film = list(script.pictures(events))
    assert [texts(shown) for _, shown in film] == [["one"], ["one", "two three", "four"]]
    assert [seconds for seconds, _ in film] == pytest.approx([0.5, 0.01 + script.HOLD])
    red, plain = film[1][1][1]
    assert (red.colour, plain.colour) == (script.COLOURS["red"], script.FOREGROUND)
    assert (red.column, plain.column) == (0, 4)


def test_a_line_that_is_written_anew_is_not_there_twice(script: Any) -> None:
    film = list(script.pictures([(0.0, "10 %"), (1.0, "\r\x1b[2K20 %")]))
    assert [texts(shown) for _, shown in film] == [["10 %"], ["20 %"]]


def test_long_pauses_are_cut_and_long_commands_are_faster(script: Any) -> None:
    assert script.shortened([(0.1, "a"), (99.0, "b")]) == [(0.1, "a"), (script.PAUSE, "b")]
    faster = script.shortened([(0.5, "x")] * 100)
    assert sum(pause for pause, _ in faster) == pytest.approx(script.LONGEST)


def test_the_film_is_moved_from_picture_to_picture(script: Any) -> None:
    film = list(script.pictures([(0.0, "one"), (2.0, "\r\nt<o")]))
    svg = script.animate(film)
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    shown = [each.text for each in root.iter(TEXT)]
    assert shown == ["one", "t<o"], "a line that stays is there once"
    height = script.ROWS * script.HEIGHT
    assert f"0.00%{{transform:translateY(-0px)}}25.00%{{transform:translateY(-{height}px)}}" in svg
    assert f".film{{transform:translateY(-{height}px)" in svg, "without motion the last is shown"


def test_the_committed_recording_is_of_these_commands(script: Any) -> None:
    svg = script.OUT.read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own file
    shown = {(each.text or "").replace("\u00a0", " ") for each in root.iter(TEXT)}
    assert set(script.COMMANDS) <= shown, "record it again: make record"
    assert any(re.search(r"release 6$", text) for text in shown)


def test_the_recorded_commands_are_those_of_the_tour(script: Any) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tour = readme.split("<!-- tour -->")[1].split("<!-- /tour -->")[0].splitlines()
    for command in [*script.COMMANDS, script.SETUP]:
        start = command.split(" --top")[0]
        assert command.startswith("#") or any(line.startswith(start) for line in tour), command
