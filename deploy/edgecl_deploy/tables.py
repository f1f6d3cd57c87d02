"""Tables of answers as CSV: a row is one line, whatever a name or an error holds."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecl_deploy.loaded import Prediction

COLUMNS = ("image", "label", "score", "known", "release", "error")
_BREAKS = str.maketrans({"\n": r"\n", "\r": r"\r"})


def head(top: int) -> list[str]:
    """Return the columns of a table.

    Args:
        top: How many classes it has per image.
    """
    more = (f"{what}_{rank}" for rank in range(2, top + 1) for what in ("label", "score"))
    return [*COLUMNS, *more]


def cells(name: str, answer: "Prediction", top: int) -> list[str]:
    """Return the row of one image, as wide as the head."""
    known = "" if answer.known is None else str(answer.known).lower()
    score = "" if answer.score is None else f"{answer.score:.6g}"
    row = [name, answer.label or "", score, known, str(answer.release), answer.error or ""]
    for label, value in answer.top[1:top]:
        row += [label, f"{value:.6g}"]
    return row + [""] * (len(head(top)) - len(row))


def line_of(row: Iterable[str]) -> str:
    """Return a row as one line of CSV, without its end; line breaks are written as escapes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([cell.translate(_BREAKS) for cell in row])
    return line.getvalue()


def row_of(line: str) -> Sequence[str]:
    """Return the cells of a line."""
    return next(csv.reader([line]), [])
