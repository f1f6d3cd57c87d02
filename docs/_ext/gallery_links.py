"""Sphinx extension: a link to a script of the gallery leads to the page that was made of it.

In the repository `examples/gallery/NAME.py` is the script and `examples/gallery/` the list; the
pages exist on the site only.
"""

import re

from sphinx.application import Sphinx

LINK = re.compile(r"\]\(((?:\.\./)*)examples/gallery/(?:(\w+)\.py)?\)")


def to_pages(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the targets of such links in a page of Markdown."""
    source[0] = LINK.sub(
        lambda link: f"]({link[1]}docs/gallery/{link[2] or 'index'}.rst)", source[0]
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the extension."""
    app.connect("source-read", to_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
