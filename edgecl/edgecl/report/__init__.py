"""Reports as single HTML files that open without a network.

The same run gives the same bytes: nothing in a page depends on the time or the machine.
"""

from collections.abc import Sequence
from pathlib import Path

from edgecl.report import _comparison, _sections
from edgecl.report._html import Html, page
from edgecl.report._read import ReportError, read_run
from edgecl.report._words import method_title
from edgecl_deploy.manifest.whole import write_whole


def write_report(run: Path) -> Path:
    """Write RUN/report.html from run.json, the tasks' records and metrics.json; return its path."""
    facts = read_run(run)
    title = f"{method_title(facts.summary.method)} on {facts.summary.stream}"
    return _write(run / "report.html", page(title, _sections.body(facts)))


def write_comparison(runs: Sequence[Path], out: Path) -> Path:
    """Write one page that compares runs; return its path.

    Args:
        runs: run folders with metrics, in the order of the table.
        out: the file to write.

    Raises:
        ReportError: if there is no run.
    """
    if not runs:
        raise ReportError("A comparison needs at least one run, got none. Name the run folders.")
    facts = [read_run(run) for run in runs]
    return _write(out, page("Runs side by side", _comparison.body(facts, out)))


def _write(path: Path, text: Html) -> Path:
    write_whole(path, text.encode())
    return path


__all__ = ["ReportError", "write_comparison", "write_report"]
