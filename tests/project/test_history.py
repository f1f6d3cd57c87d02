"""The history of the benchmarks is what the recorded results say, commit by commit."""

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "history.py"
HISTORY = ROOT / "benchmarks" / "history.jsonl"
PLOT = ROOT / "docs" / "benchmark_history.svg"
RECORDS = [json.loads(line) for line in HISTORY.read_text().splitlines()]


def compute(code: str) -> str:
    """Run Python code with the script's module loaded as `history`; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"import history\n{code}"],
        cwd=SCRIPT.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["version"])
def test_a_record_is_what_its_commit_says(record: dict[str, object]) -> None:
    named = (record["version"], record["date"], record["commit"])
    assert json.loads(compute(f"print(history.json.dumps(history.record{named!r}))")) == record


def test_every_release_has_one_record() -> None:
    versions = [record["version"] for record in RECORDS]
    assert len(set(versions)) == len(versions)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = [line.split()[1] for line in changelog.splitlines() if line.startswith("## ")]
    assert sections == versions[::-1], "make changelog writes both"


def test_the_figures_are_those_of_the_tables() -> None:
    """LayUP on the stream of 200 classes, as the table of methods.md shows it."""
    table = (ROOT / "benchmarks" / "results" / "methods.md").read_text(encoding="utf-8")
    section = table.split("## openemoji10")[1].split("\n## ")[0]
    [row] = [each for each in section.splitlines() if each.startswith("| layup |")]
    commit = compute("print(history.last_commit())").strip()
    code = f"print(history.json.dumps(history.record('next', '2000-01-01', {commit!r})))"
    layup = json.loads(compute(code))["methods"]["openemoji10"]["layup"]
    cells = [cell.strip() for cell in row.split("|")]
    assert f"{100 * layup['a_last']:.1f}" == cells[3].split()[0]
    assert f"{layup['bytes_later'] / 1000:,.1f}" == cells[9]


def test_the_plot_is_of_this_history() -> None:
    source = ElementTree.parse(PLOT).getroot()  # noqa: S314 - our own file
    [digest] = [element.text for element in source.iter() if element.tag.endswith("}source")]
    assert digest == hashlib.sha256(HISTORY.read_bytes()).hexdigest(), "make docs"
    written = " ".join(source.itertext())
    for record in RECORDS:
        assert record["version"] in written
    for name in ("layup", "cgil", "update of a task"):
        assert name in written


def test_a_record_replaces_that_of_its_version(tmp_path: Path) -> None:
    code = f"""
history.HISTORY = history.Path({str(tmp_path / "history.jsonl")!r})
for version, date in (("1", "a"), ("2", "b"), ("1", "c")):
    history.add({{"version": version, "date": date}})
print([each["date"] for each in history.read()])
"""
    assert compute(code).strip() == "['b', 'c']"
