"""The built-in stream: its classes, its bytes, its licences."""

import hashlib
import io
import json
import zipfile

import pytest
from PIL import Image

from edgecl.streams import load_stream
from edgecl.streams._emoji_demo import ARCHIVE
from edgecl.streams._openemoji_fetch import concept_digest, is_unseen, styles

SHA256 = "212e95e065bade005165c4ba4000f6fbe4a4e9a39875f6eb6399bc23c67a9c8a"
TRAIN = {"noto", "noto-v1", "twemoji", "fluent-emoji-flat", "fxemoji", "emojione"}
FOLDER = ARCHIVE.parent


@pytest.fixture(scope="module")
def index():
    with zipfile.ZipFile(ARCHIVE) as archive:
        return json.loads(archive.read("index.json"))


def test_six_tasks_of_ten_classes():
    stream = load_stream("emoji-demo")
    assert len(stream.classes) == 60
    assert [len(task.classes) for task in stream.tasks] == [10] * 6
    for task in stream.tasks:
        assert (len(task.train), len(task.test)) == (60, 10)
        assert {name.split("/")[1] for name in task.train.names} == TRAIN
        assert {name.split("/")[1] for name in task.test.names} == {"fluent-emoji"}


def test_every_image_decodes_and_shows_something():
    for task in load_stream("emoji-demo").tasks:
        for part in (task.train, task.test):
            for i in range(len(part)):
                image = part.image(i)
                assert (image.mode, image.size) == ("RGB", (112, 112))
                assert any(low < 240 for low, _ in image.getextrema())


def test_labels_follow_the_file_names():
    stream = load_stream("emoji-demo")
    for task in stream.tasks:
        for name, label in zip(task.train.names, task.train.labels, strict=True):
            assert name.endswith(f"/{stream.classes[label]}.webp")


def test_classes_are_unseen_concepts_in_order_of_their_digest(index):
    assert all(is_unseen(name) for name in index["classes"])
    assert index["classes"] == sorted(index["classes"], key=concept_digest)


def test_bytes_are_the_pinned_ones(index):
    assert hashlib.sha256(ARCHIVE.read_bytes()).hexdigest() == SHA256
    with zipfile.ZipFile(ARCHIVE) as archive:
        assert set(archive.namelist()) == {"index.json", *index["images"]}
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            if info.filename != "index.json":
                data = archive.read(info)
                assert hashlib.sha256(data).hexdigest() == index["images"][info.filename]
                assert Image.open(io.BytesIO(data)).format == "WEBP"


def test_at_most_three_megabytes_with_notice_and_licences():
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) <= 3_000_000


def test_notice_names_every_style_its_package_and_its_licence(index):
    notice = (FOLDER / "NOTICE").read_text()
    used = [style for style in styles() if style.style in {*TRAIN, "fluent-emoji"}]
    assert {style.package: style.version for style in used} == index["packages"]
    for style in used:
        assert f"{style.package} {style.version}" in notice
        assert style.url in notice


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("Apache-2.0.txt", "Apache License"),
        ("CC-BY-4.0.txt", "Attribution 4.0 International"),
        ("MIT-fluentui-emoji.txt", "Copyright (c) Microsoft Corporation."),
    ],
)
def test_licence_texts_are_there(file, says):
    assert says in (FOLDER / "LICENSES" / file).read_text()
    assert file in (FOLDER / "NOTICE").read_text()
