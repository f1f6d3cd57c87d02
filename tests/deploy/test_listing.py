"""Which files a name stands for: files, folders and patterns."""

import os

import pytest

from edgecl_deploy import listing
from edgecl_deploy.errors import OptionError
from edgecl_deploy.listing import find_images


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        *("a/2.jpg", "a/10.PNG", "a/b/c/1.webp", "a/notes.txt", "a/.hidden.jpg", "a/Thumbs.db"),
        *("a/.git/x.jpg", "a/__MACOSX/y.jpg", "a/@eaDir/z.jpg", "a/._2.jpg", "odd[1].jpg"),
        *("none/readme.md", "none/sub/data.csv"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_a_folder_is_its_images_sorted_without_what_systems_leave(tree):
    assert list(find_images(["a"])) == ["a/10.PNG", "a/2.jpg", "a/b/c/1.webp"]


def test_a_pattern_is_the_files_that_match(tree):
    assert list(find_images(["a/**/*.*"])) == [
        *("a/10.PNG", "a/2.jpg", "a/b/c/1.webp", "a/notes.txt")
    ]
    assert list(find_images(["a/[0-9].jpg"])) == ["a/2.jpg"]


def test_the_order_is_that_of_the_names_given(tree):
    assert list(find_images(["a/notes.txt", "a/b", "a/2.jpg", "gone.jpg"])) == [
        *("a/notes.txt", "a/b/c/1.webp", "a/2.jpg", "gone.jpg")
    ]


def test_a_name_that_is_there_is_no_pattern(tree):
    assert list(find_images(["odd[1].jpg"])) == ["odd[1].jpg"]


@pytest.mark.parametrize("name", ["none", "none/sub", "a/.git/refs"])
def test_a_folder_without_images_is_refused_before_anything_is_yielded(tree, name):
    os.makedirs(name, exist_ok=True)
    with pytest.raises(OptionError, match=r"must hold image files; found none\. Name another one"):
        find_images(["a", name])


def test_a_pattern_without_a_match_is_refused(tree):
    with pytest.raises(OptionError, match=r"a/\*\.gif must match files; found none\. Check it"):
        find_images(["a/2.jpg", "a/*.gif"])


def test_a_link_to_a_folder_above_ends(tree):
    os.symlink(tree / "a", tree / "a" / "b" / "again")
    os.symlink(tree / "a" / "b", tree / "b-too")
    assert list(find_images(["a"])) == ["a/10.PNG", "a/2.jpg", "a/b/c/1.webp"]
    assert list(find_images(["b-too"]))[-1] == "b-too/c/1.webp"


def test_a_folder_that_cannot_be_listed_is_named(tree, monkeypatch):
    def refused(_):
        raise PermissionError(13, "Permission denied", "a")

    monkeypatch.setattr(listing.os, "scandir", refused)
    with pytest.raises(OptionError, match=r"a must be readable; found PermissionError.*the right"):
        find_images(["a"])
