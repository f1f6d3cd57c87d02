"""The site's own parts: what fails its build, its glossary, its reference, its gallery."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from edgecl_deploy.commands import edgecl

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GALLERY = ROOT / "examples" / "gallery"
SLOW = pytest.mark.slow  # `make site` runs every script, so the tests need not
SCRIPTS = [
    pytest.param("1_first_run", ["release 3: 'sushi'"], marks=SLOW),
    pytest.param("2_your_images", ["task 3: pin, 12 images"]),
    pytest.param(
        "3_follow_a_channel",
        ["updated: release 2 serves", "release 1: 0 of 10", "release 1 serves now"],
        marks=SLOW,
    ),
    pytest.param("4_a_method_of_one_file", ["the device, 4 per class:  80.0%"], marks=SLOW),
]

INDEX = """# Home

{text}

```{{toctree}}
api
gallery/index
```
"""
API = """# API

## A heading

```{eval-rst}
.. automodule:: shown
   :members:
```
"""
SHOWN = '''"""A package."""

__all__ = ["Kind", "Late", "call"]


class Kind:
    """A class."""


def call(kind: Kind) -> int:
    {docstring}
    return 1


def __getattr__(name: str) -> type:
    if name != "Late":
        raise AttributeError(name)
    return type("Late", (), {{"__doc__": "A class that is made late.", "__module__": "shown"}})
'''


@pytest.fixture(scope="module")
def public_names():
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        import public_names as module

        yield module
    finally:
        sys.path.remove(str(DOCS / "_ext"))
        sys.modules.pop("public_names", None)


@pytest.fixture
def build(tmp_path):
    """Return a function that builds a site of one page, one module and an empty gallery."""

    def run(text: str = "Text.", docstring: str = '"""Do it."""'):
        (tmp_path / "docs").mkdir()
        shutil.copy(DOCS / "conf.py", tmp_path / "docs")
        for folder in ("_ext", "_root"):
            shutil.copytree(DOCS / folder, tmp_path / "docs" / folder)
        (tmp_path / "docs" / "index.md").write_text(INDEX.format(text=text))
        (tmp_path / "docs" / "api.md").write_text(API)
        (tmp_path / "shown.py").write_text(SHOWN.format(docstring=docstring))
        gallery = tmp_path / "examples" / "gallery"
        gallery.mkdir(parents=True)
        shutil.copy(GALLERY / "GALLERY_HEADER.rst", gallery)
        (gallery / "1_one.py").write_text('"""\nOne\n===\n\nA page.\n"""\n\nprint(1)\n')
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs"]
        options = ["-D", "public_packages=shown", ".", "site"]
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def test_a_site_is_built_and_links_a_type_by_its_public_name(build, tmp_path):
    done = build(
        text="[a heading](api.md#a-heading), [a file](../shown.py), "
        "[a script](../examples/gallery/1_one.py), [all](../examples/gallery/)"
    )
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "site" / "docs" / "index.html").read_text()
    assert {"gallery/1_one.html", "gallery/index.html"} <= set(re.findall(r'href="([^"]+)"', home))
    page = (tmp_path / "site" / "docs" / "api.html").read_text()
    assert re.search(r'call.*href="#shown\.Kind"', page)
    assert 'id="shown.Late"' in page


def test_broken_links_and_a_public_name_without_docstring_fail_the_build(build):
    broken = ("no-page.md", "api.md#no-heading", "../no-file.py")
    done = build(text=" ".join(f"[a link]({target})" for target in broken), docstring="pass")
    assert done.returncode != 0
    for target in ("no-page", "no-heading", "no-file.py"):
        assert target in done.stderr
    assert "shown.call is public, so it must have a docstring" in done.stderr
    assert "shown.Kind" not in done.stderr


def test_every_public_name_has_a_docstring(public_names):
    names = dict(public_names.public_names())
    assert "edgecl.load_backbone" in names
    assert [name for name, value in names.items() if not public_names.has_docstring(value)] == []


def test_a_docstring_that_dataclass_made_is_none(public_names):
    from dataclasses import dataclass

    @dataclass
    class Bare:
        size: int = 1

    assert Bare.__doc__
    assert not public_names.has_docstring(Bare)


def test_code_blocks_of_markdown_are_converted(public_names):
    lines = ["Text:", "```python", "call()", "```", "After."]
    public_names.fences(None, "module", "m", SimpleNamespace(), None, lines)
    made = ["Text:", "", ".. code-block:: python", "", "    call()", "", "After."]
    assert lines == made


def test_the_reference_shows_every_command():
    page = (DOCS / "reference" / "edgecl-command.md").read_text(encoding="utf-8")
    listed = re.search(r":commands: (.*)", page)
    assert listed
    shown = set(listed[1].split(", ")) | {"export", "channel", "device"}
    assert shown == set(edgecl.list_commands(click.Context(edgecl)))


@pytest.mark.parametrize(("name", "expected"), SCRIPTS)
def test_a_script_of_the_gallery_runs(name, expected):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(GALLERY / f"{name}.py")],
        env={**os.environ, "MPLBACKEND": "Agg", "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    for text in expected:
        assert text in done.stdout


def test_every_script_of_the_gallery_is_tested():
    assert {case.values[0] for case in SCRIPTS} == {path.stem for path in GALLERY.glob("*.py")}
