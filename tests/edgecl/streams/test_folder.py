"""Image folders: layouts, broken files, empty and duplicate classes, one new task."""

import pytest
from PIL import Image

from edgecl.streams import (
    BrokenImageError,
    StreamError,
    load_stream,
    task_from_folder,
    unpack,
)


def test_one_folder_with_increment(make_folder):
    root = make_folder({"cat": 10, "dog": 10, "eel": 10, "fox": 10})
    stream = load_stream("folder", root=root, increment=2, seed=None)
    assert [task.classes for task in stream.tasks] == [("cat", "dog"), ("eel", "fox")]
    assert [len(t.train) + len(t.test) for t in stream.tasks] == [20, 20]
    assert 1 <= sum(len(task.test) for task in stream.tasks) <= 16  # of each, or none, by its hash
    assert load_stream(str(root), increment=2, seed=None).spec == stream.spec
    assert load_stream(**stream.spec).tasks[1].test.names == stream.tasks[1].test.names
    assert stream.tasks[1].train.image(0).getpixel((0, 0))[0] == 2  # eel is the third folder


def test_spec_does_not_depend_on_the_working_directory(make_folder, monkeypatch):
    root = make_folder({"cat": 2, "dog": 2})
    monkeypatch.chdir(root.parent)
    assert load_stream("folder", root="images", increment=1).spec["root"] == str(root)


def test_task_folders_in_order_of_their_numbers(make_folder):
    root = make_folder({"task_10/cat": 5, "task_2/fox": 5, "task_2/dog": 5})
    stream = load_stream(str(root))
    assert [(t.name, t.classes) for t in stream.tasks] == [
        ("task_2", ("dog", "fox")),
        ("task_10", ("cat",)),
    ]
    assert stream.classes == ("dog", "fox", "cat")
    assert set(stream.tasks[1].train.labels) == {2}


def test_train_and_test_above(make_folder):
    root = make_folder({"train/task_00/cat": 3, "train/task_01/dog": 3, "test/task_00/cat": 2})
    stream = load_stream(str(root))
    assert [(len(t.train), len(t.test)) for t in stream.tasks] == [(3, 2), (3, 0)]
    with pytest.raises(StreamError, match="Leave test_fraction out"):
        load_stream(str(root), test_fraction=0.1)


def test_train_and_test_above_classes(make_folder):
    root = make_folder({"train/cat": 3, "train/dog": 3, "test/dog": 1, "test/cat": 2})
    stream = load_stream(str(root), increment=1, seed=None)
    assert [(len(t.train), len(t.test)) for t in stream.tasks] == [(3, 2), (3, 1)]


def test_test_part_with_another_class(make_folder):
    root = make_folder({"train/cat": 3, "test/cat": 1, "test/emu": 1})
    with pytest.raises(StreamError, match=r"emu\. Remove these, or add training images"):
        load_stream(str(root), increment=1)


def test_domains_repeat_classes(make_folder):
    root = make_folder({"task_0/cat": 5, "task_0/dog": 5, "task_1/dog": 5, "task_1/cat": 5})
    with pytest.raises(StreamError, match="'cat' and 'cat' are one name"):
        load_stream(str(root))
    stream = load_stream(str(root), protocol="dil")
    assert stream.protocol == "dil"
    assert stream.classes == ("cat", "dog")
    assert [t.classes for t in stream.tasks] == [("cat", "dog")] * 2
    assert load_stream(**stream.spec).protocol == "dil"


def test_broken_images_are_named_and_skipped(make_folder):
    root = make_folder({"cat": 5, "dog": 5})
    (root / "cat" / "000.png").write_bytes(b"not an image")
    (root / "cat" / "notes.txt").write_text("ignored: no image's ending")
    (root / "cat" / ".hidden.png").write_text("ignored: hidden")
    task = load_stream(str(root), increment=2).tasks[0]
    assert task.skipped == (str(root / "cat" / "000.png"),)
    assert len(task.train) + len(task.test) == 9


def test_damage_after_the_header_is_found_when_decoding(make_folder):
    root = make_folder({"cat": 1})
    path = root / "cat" / "000.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    task = load_stream(str(root), increment=1, test_fraction=0.0).tasks[0]
    with pytest.raises(BrokenImageError, match=r"cat/000\.png"):
        task.train.image(0)


def test_a_class_of_broken_images_only_is_empty(make_folder):
    root = make_folder({"cat": 1, "dog": 1})
    (root / "dog" / "000.png").write_bytes(b"")
    with pytest.raises(StreamError, match=r"dog holds none \(1 broken so far\)\. Add images"):
        load_stream(str(root), increment=1)


def test_an_empty_class_is_an_error(make_folder):
    with pytest.raises(StreamError, match="or remove the folder"):
        load_stream(str(make_folder({"cat": 1, "dog": 0})), increment=1)


def test_names_that_differ_in_capitals_only(make_folder):
    root = make_folder({"cat": 1, "dog": 1})
    (root / "Dog").mkdir(exist_ok=True)
    if len(list(root.iterdir())) == 2:
        pytest.skip("this file system does not tell capitals")
    with pytest.raises(StreamError, match=r"'Dog' and 'dog' are one name\. Rename"):
        load_stream(str(root), increment=1)


@pytest.mark.parametrize(
    ("counts", "options", "action"),
    [
        ({"cat": 1}, {}, "Give increment"),
        ({"cat": 1}, {"increment": 1, "protocol": "dil"}, "Use folders task_00"),
        ({"task_0/cat": 1}, {"increment": 1}, "Leave increment out"),
        ({"task_0": 0}, {}, "Make one folder of images per class"),
        ({}, {}, "Give an existing folder"),
        ({"cat": 1}, {"protocol": "til"}, r"one of .*'dcil'.*, got 'til'\. Pick one"),
    ],
)
def test_unfit_layouts_say_what_to_do(make_folder, counts, options, action):
    root = make_folder(counts)
    with pytest.raises(StreamError, match=action):
        load_stream("folder", root=str(root), **options)


def test_a_folder_without_folders(tmp_path):
    with pytest.raises(StreamError, match=r"See docs/streams\.md"):
        load_stream(str(tmp_path))


def test_one_new_task(make_folder):
    root = make_folder({"emu": 5, "asp": 5})
    task = task_from_folder(root, ("cat", "dog"), name="birds")
    assert (task.name, task.classes) == ("birds", ("asp", "emu"))
    assert set(task.train.labels) == {2, 3}  # after the known classes
    assert (len(task.train), len(task.test)) == (8, 2)
    everything = task_from_folder(str(root), ("cat", "dog"), test_fraction=0.0)
    assert (everything.name, len(everything.train), len(everything.test)) == ("images", 10, 0)


def test_one_new_task_with_a_test_part(make_folder):
    root = make_folder({"train/emu": 2, "test/emu": 3})
    task = task_from_folder(root, ())
    assert (len(task.train), len(task.test)) == (2, 3)


def test_one_new_task_with_a_known_class(make_folder):
    root = make_folder({"Cat": 2, "emu": 2})
    with pytest.raises(StreamError, match="'cat' and 'Cat' are one name"):
        task_from_folder(root, ("cat", "dog"))
    with pytest.raises(StreamError, match="'cat' and 'Cat' are one name"):
        task_from_folder(root, ("cat", "dog"), protocol="dil")
    task = task_from_folder(root, ("dog", "Cat"), protocol="dil")
    assert task.classes == ("Cat", "emu")
    assert set(task.train.labels) == {1, 2}


def test_one_new_task_from_nowhere(tmp_path):
    with pytest.raises(StreamError, match="Give the folder above the classes"):
        task_from_folder(tmp_path / "none", ())
    with pytest.raises(StreamError, match="Make one folder of images per class"):
        task_from_folder(tmp_path, ())


def test_an_unpacked_stream_reads_back(tmp_path):
    stream = load_stream("emoji-demo", tasks=2)
    assert unpack(stream, tmp_path / "out") == 140
    again = load_stream(str(tmp_path / "out"))
    assert [task.classes for task in again.tasks] == [
        tuple(sorted(task.classes)) for task in stream.tasks
    ]
    assert [len(task.train) for task in again.tasks] == [60, 60]
    with pytest.raises(StreamError, match="Choose another, or remove it"):
        unpack(stream, tmp_path / "out")
