"""The configuration of the documentation site; `make site` builds it.

The source folder of the site is the repository, so that the pages of `docs/`, the records of
`benchmarks/` and the project's own pages are read where they are: a link that works in the
repository works on the site. The generated pages of the gallery are written to `docs/gallery/`.
"""

import logging
import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
logging.basicConfig(level=logging.WARNING)  # before a style of furo's sets it to INFO

project = "edgecl"
author = "the authors of edgecl"
version = release = installed("edgecl")
language = "en"
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "docs/gallery/*.rst",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "RELEASE.md",
    "SECURITY.md",
]
# Notes are parts of docs/methods.md; the folders are no part of the site and slow to walk.
exclude_patterns = ["docs/notes/**", ".venv", ".git", "build", "dist", "runs", "tests"]

extensions = [
    "commands",
    "gallery_links",
    "myst_parser",
    "public_names",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]

# A link to a page, a file or a heading that is not there is a warning, and -W makes it an error.
nitpicky = True
# Types of other packages, and types of ours that are not public, are names without a link.
nitpick_ignore_regex = [("py:(class|exc|data|obj)", ".*")]
myst_heading_anchors = 4  # GitHub's anchors, which README.md uses
highlight_language = "text"

default_role = "code"  # docstrings write names in single backticks
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

sphinx_gallery_conf = {
    "examples_dirs": "examples/gallery",
    "gallery_dirs": "docs/gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "notebook_extensions": set(),
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "furo"
html_title = f"edgecl {version}"
html_extra_path = ["_root"]  # a page at the top that leads to docs/index.html
html_copy_source = False
