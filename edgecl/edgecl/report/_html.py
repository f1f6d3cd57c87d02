"""HTML and SVG text that is escaped unless it was made here."""

from collections.abc import Sequence
from html import escape
from pathlib import Path


class Html(str):
    """Text that is markup already; any other string is escaped where it enters a tag."""

    __slots__ = ()


def tag(element: str, *children: str | int, **attributes: str | float | int | None) -> Html:
    """Return one element; `class_` and `stroke_width` become `class` and `stroke-width`.

    Attributes that are None are left out. Floats are rounded to hundredths: no picture needs more.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = join(*children)
    if element in {"meta", "img", "rect", "line", "circle", "polyline", "path"} and not inner:
        return Html(f"<{element}{written}>" if element == "meta" else f"<{element}{written}/>")
    return Html(f"<{element}{written}>{inner}</{element}>")


def join(*children: str | int) -> Html:
    """Return children side by side, escaped where they are not markup."""
    return Html(
        "".join(
            child if isinstance(child, Html) else escape(str(child), quote=False)
            for child in children
        )
    )


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str | int]],
    *,
    text_columns: int = 1,
) -> Html:
    """Return a table whose first column names the row; columns after `text_columns` hold numbers.

    Args:
        caption: what the table holds, for all readers.
        head: the column names.
        rows: cells; text that is not `Html` is escaped.
        text_columns: how many columns on the left are text.
    """

    def cell(index: int, value: str | int) -> Html:
        kind = None if index < text_columns else "number"
        if index == 0:
            return tag("th", value, scope="row")
        return tag("td", value, class_=kind)

    header = [
        tag("th", name, scope="col", class_=None if index < text_columns else "number")
        for index, name in enumerate(head)
    ]
    body = [tag("tr", *(cell(index, value) for index, value in enumerate(row))) for row in rows]
    whole = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *header)),
        tag("tbody", *body),
    )
    # A wide table scrolls by itself; tabindex lets a keyboard scroll it.
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def details(summary: str, *children: str) -> Html:
    """Return a part that opens on demand."""
    return tag("details", tag("summary", summary), *children)


def section(title: str, lead: str, *children: str) -> Html:
    """Return a part of the page with a heading and one sentence about what it shows."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead"), *children)


def page(title: str, *children: str) -> Html:
    """Return a whole document that loads nothing; its policy forbids it to."""
    style = Html(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    body = tag("body", tag("main", *children))
    return Html(f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")


def _text(value: str | float | int) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
