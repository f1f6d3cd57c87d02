"""Names as people have them: each is either refused at once, or it reaches the device."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecl.learning.learner import Learner
from edgecl.learning.records import LearnedTask, TaskRecord
from edgecl.learning.runs import Run, RunError
from edgecl.session import learn_folder, learn_stream
from edgecl.streams import Stream, StreamError, load_stream, task_from_folder
from edgecl_deploy import Classifier
from edgecl_deploy.errors import ManifestError
from edgecl_deploy.format import parse_pack
from edgecl_deploy.manifest import limits, names
from edgecl_deploy.manifest.canonical import canonical
from edgecl_deploy.manifest.fields import Fields
from edgecl_export.errors import PackError
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
MakeFolders = Callable[..., Path]

KAESE, DECOMPOSED = "K\u00e4se", "Ka\u0308se"
ACCEPTED = {  # as it is given, as it is stored
    "a word": ("cat", "cat"),
    "spaces inside": ("fire  engine", "fire  engine"),
    "blanks at the ends": ("  cat ", "cat"),
    "a no-break space": ("jet\u00a0plane", "jet plane"),
    "an ideographic space": ("\u3000\u732b", "\u732b"),
    "composed": (KAESE, KAESE),
    "decomposed": (DECOMPOSED, KAESE),
    "hangul in letters": ("\u1112\u1161\u11ab", "\ud55c"),
    "Persian with a joiner": ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",) * 2,
    "Hindi with a joiner": ("\u0915\u094d\u200d\u0937",) * 2,
    "a farmer": ("\U0001f469\u200d\U0001f33e farmer",) * 2,
    "a flag of two letters": ("\U0001f1e9\U0001f1ea",) * 2,
    "the flag of Scotland": (
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    ) * 2,
    "an emoji with its variation": ("\u2764\ufe0f",) * 2,
    "200 characters": ("x" * 200,) * 2,
    "200 characters beyond ASCII": ("\U0001f33e" * 200,) * 2,
    "201 that are 200 in NFC": ("x" * 199 + "a\u0308", "x" * 199 + "\u00e4"),
    "signs of JSON": ('"\\{}[],:',) * 2,
    "a word of JSON": ("null",) * 2,
    "a number": ("007",) * 2,
    "signs of a shell": ("$(rm) ; *",) * 2,
}  # fmt: skip
REFUSED = {
    "nothing": ("", "0 characters"),
    "blanks": (" \u00a0 ", "0 characters"),
    "201 characters": ("x" * 201, "201 characters"),
    "a line break": ("cat\ndog", r"a line break \(U\+000A\)"),
    "a line break at the end": ("cat\n", r"a line break \(U\+000A\)"),
    "the next line": ("cat\x85", r"a line break \(U\+0085\)"),
    "a separator of lines": ("cat\u2028dog", r"the line separator U\+2028"),
    "a tabulator": ("cat\tdog", r"the control character U\+0009"),
    "an escape": ("\x1b[31mcat", r"the control character U\+001B"),
    "an override of direction": ("cat\u202egod", r"the invisible character U\+202E"),
    "an isolate of direction": ("\u2066cat", r"the invisible character U\+2066"),
    "a mark of direction": ("cat\u200f", r"the invisible character U\+200F"),
    "a zero-width space": ("c\u200bat", r"the invisible character U\+200B"),
    "a byte-order mark": ("\ufeffcat", r"the invisible character U\+FEFF"),
    "a soft hyphen": ("c\u00adat", r"the invisible character U\+00AD"),
    "a filler": ("\u3164", r"the invisible character U\+3164"),
    "a joiner alone": ("\u200d", "nothing that can be seen"),
    "an accent alone": ("\u0301", "nothing that can be seen"),
    "tags without a flag": ("cat\U000e0067\U000e007f", r"the invisible character U\+E0067"),
    "private use": ("\ue000", r"the private character U\+E000"),
    "never a character": ("\uffff", r"the unassigned character U\+FFFF"),
    "Latin-1": ("Gr\udce4ser", "the byte 0xE4, which is not UTF-8"),
    "a surrogate": ("\ud83d", r"the surrogate U\+D83D"),
}
ONE_NAME = {  # two names, and how a message shows them
    "case": ("Cat", "cat", ("'Cat'", "'cat'")),
    "a sharp s": ("Stra\u00dfe", "STRASSE", ("'Stra\u00dfe'", "'STRASSE'")),
    "spelling": (KAESE, DECOMPOSED, (r"'K\xe4se'", r"'Ka\u0308se'")),
    "spelling and case": (KAESE, "KA\u0308SE", ("'K\u00e4se'", r"'KA\u0308SE'")),
    "a blank": ("cat", "cat ", ("'cat'", "'cat '")),
    "kinds of blanks": ("a b", "a\u00a0b", ("'a b'", r"'a\xa0b'")),
}


def task_of(index: int, classes: tuple[str, ...], learner: Learner, name: str = "t") -> LearnedTask:
    """Return a task that nobody trained: one random prototype per class."""
    part = {
        key: torch.randn(item.shape(len(classes)), generator=torch.Generator().manual_seed(index))
        for key, item in learner.declared.items()
    }
    canary = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    return LearnedTask(
        TaskRecord(index, name, classes, (), (1,) * len(classes), (), 0.0), part, {}, canary
    )


@pytest.mark.parametrize(("given", "stored"), ACCEPTED.values(), ids=ACCEPTED)
def test_an_accepted_name_is_stored_in_one_form(given: str, stored: str) -> None:
    assert names.fault(given) is None
    assert names.canonical(given) == stored
    assert names.stored_fault(stored) is None
    if given != stored:
        assert names.stored_fault(given) is not None


@pytest.mark.parametrize(("given", "wrong"), REFUSED.values(), ids=REFUSED)
def test_a_refused_name_is_refused_by_every_writer_and_reader(
    make_learner: MakeLearner, given: str, wrong: str
) -> None:
    learner = make_learner("simplecil")
    with pytest.raises(RunError, match=rf"{wrong}.*Rename it"):
        learner.run.commit(task_of(0, (names.canonical(given),), learner), None)
    with pytest.raises(RunError, match=rf"its name .*{wrong}"):
        learner.run.commit(task_of(0, ("cat",), learner, name=names.canonical(given)), None)
    assert len(learner.run) == 0
    with pytest.raises(ManifestError, match=r"must be a name of 1 to 200 visible characters"):
        Fields({"name": given}, "pack").name("name")


@pytest.mark.parametrize(("given", "wrong"), REFUSED.values(), ids=REFUSED)
def test_a_refused_folder_is_refused_before_any_work(
    make_folders: MakeFolders, given: str, wrong: str
) -> None:
    root = make_folders({f"hue-{hue}": hue for hue in range(2)}, count=2)
    if given:
        with pytest.raises(StreamError, match=rf"A task must have a name.*{wrong}. Rename it"):
            task_from_folder(root, [], name=given)
    try:
        os.rename(root / "hue-1", root / given)
    except (OSError, ValueError):
        return  # this file system has no such folder
    for load in (lambda: load_stream(str(root), increment=1), lambda: task_from_folder(root, [])):
        with pytest.raises(StreamError, match=rf"A class of .*{wrong}. Rename it"):
            load()


@pytest.mark.parametrize(("one", "other", "both"), ONE_NAME.values(), ids=ONE_NAME)
def test_two_names_that_are_one_are_shown(
    make_folders: MakeFolders,
    make_learner: MakeLearner,
    one: str,
    other: str,
    both: tuple[str, str],
) -> None:
    root = make_folders({one: 0, other: 1}, count=2)
    with pytest.raises(
        StreamError, match=r"are one name. Rename one of the two, or merge"
    ) as caught:
        load_stream(str(root), increment=1)
    assert all(shown in str(caught.value) for shown in both)
    learner = make_learner("simplecil")
    learner.run.commit(task_of(0, (names.canonical(one),), learner), None)
    if names.canonical(one) != names.canonical(other):
        with pytest.raises(RunError, match="differ in more than case and spelling"):
            learner.run.commit(task_of(1, (names.canonical(other),), learner), None)
    assert len(learner.run) == 1


def test_every_accepted_name_reaches_the_device(
    make_learner: MakeLearner,
    make_stream: MakeStream,
    make_folders: MakeFolders,
    simplecil_bundle: Path,
    tmp_path: Path,
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    given = {name for name, _ in ACCEPTED.values() if len(name.encode()) <= 255}
    chosen = sorted(given - {"  cat ", DECOMPOSED})
    root = make_folders({name: index % 6 for index, name in enumerate(chosen)}, count=1)
    record = learn_folder(learner, root, "  \u0645\u06cc\u200c\u062e ")
    assert record.name == "\u0645\u06cc\u200c\u062e"
    assert set(record.classes) == {names.canonical(name) for name in chosen}
    export_packs(learner.run, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", simplecil_bundle)
    device = Classifier.open(simplecil_bundle, tmp_path / "release")
    assert set(record.classes) <= set(device.classes)


def test_a_domain_may_spell_a_class_otherwise(make_folders: MakeFolders) -> None:
    root = make_folders({f"task_00/{KAESE}": 0, f"task_01/{DECOMPOSED}": 1}, count=2)
    stream = load_stream(str(root), protocol="dil")
    assert stream.classes == (KAESE,)
    assert [task.classes for task in stream.tasks] == [(KAESE,), (KAESE,)]


def test_a_file_whose_name_is_not_utf8_is_learned_or_named(
    make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    root = make_folders({"hue-2": 2})
    os.rename(root / "hue-2" / "000.png", os.fsencode(root / "hue-2") + b"/Gr\xe4ser.png")
    (root / "hue-2" / "kapu\udce4tt.png").write_bytes(b"no image")
    record = learn_folder(learner, root)
    assert record.train_images == 5
    assert "kapu" in record.skipped[0]
    assert json.loads((learner.run.path / "tasks/001/task.json").read_bytes())["skipped"]


@given(st.text(st.characters(), max_size=12))
def test_what_a_writer_accepts_a_reader_reads(text: str) -> None:
    stored = names.canonical(text)
    assert names.canonical(stored) == stored
    if names.fault(text) is None:
        assert Fields({"name": stored}, "pack").name("name") == stored
        assert json.loads(canonical({"name": stored})) == {"name": stored}
        assert names.folded(stored) == names.folded(text)
    names.spelled(text).encode()


def test_names_that_no_manifest_can_hold_are_refused_at_the_commit(
    make_learner: MakeLearner, tmp_path: Path
) -> None:
    learner = make_learner("simplecil")
    classes = tuple(f"{index:05d}" + "\U0001f33e" * 195 for index in range(12_000))
    with pytest.raises(RunError, match=r"names of 94[0-9]* bytes together, more than"):
        learner.run.commit(task_of(0, classes, learner), None)


def test_the_export_asks_the_readers_rule(make_learner: MakeLearner, tmp_path: Path) -> None:
    """A run of a former release may hold such a name."""
    learner = make_learner("simplecil")
    learner.run.commit(task_of(0, ("cat",), learner), None)
    record = learner.run.record(0)
    path = learner.run.path / "tasks" / "000" / "task.json"
    path.write_text(json.dumps(replace(record, classes=("c\u200bat",)).to_json()))
    with pytest.raises(PackError, match=r"U\+200B. Rename the class with `edgecl classes rename`"):
        export_packs(learner.run, tmp_path / "packs")
    assert not list((tmp_path / "packs").glob("packs/*"))


@pytest.mark.slow
def test_ten_thousand_classes_of_a_hundred_characters(
    make_learner: MakeLearner, simplecil_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """As one task of lineages, and as ten tasks; the time and the memory are printed."""
    learner = make_learner("simplecil")
    lineage = "Animalia, Chordata, Aves, Passeriformes, " + "\u00e4" * 50
    every = tuple(f"{lineage} {index:08d}" for index in range(10_000))
    assert len(every[0]) == 100
    began = time.perf_counter()
    learner.run.commit(task_of(0, every, learner), None)
    export_packs(learner.run, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", simplecil_bundle)
    made = time.perf_counter() - began
    (manifest,) = (tmp_path / "release" / "packs").iterdir()
    assert manifest.stat().st_size > limits.MAX_PACK_BASE
    assert parse_pack(manifest.read_bytes()).classes == every
    began = time.perf_counter()
    device = Classifier.open(simplecil_bundle, tmp_path / "release")
    (answer,) = device.predict([np.zeros((32, 32, 3), np.uint8)])
    ran = time.perf_counter() - began
    assert answer.label in every
    ten = Run.create(
        tmp_path / "ten", {k: v for k, v in learner.run.header.items() if k != "format"}
    )
    for task in range(10):
        ten.commit(task_of(task, every[task * 1000 : (task + 1) * 1000], learner), None)
    export_packs(ten, tmp_path / "ten-packs")
    export_release(tmp_path / "ten-packs", tmp_path / "ten-release", simplecil_bundle)
    assert (
        Classifier
        .open(simplecil_bundle, tmp_path / "ten-release")
        .predict([np.zeros((32, 32, 3), np.uint8)])[0]
        .label
        in every
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << (20 if sys.platform == "darwin" else 10)
    )
    with capsys.disabled():
        print(  # noqa: T201 - the figures are for the reader of the log
            f"\n10,000 classes: made in {made:.1f} s, opened and run in {ran:.1f} s, {peak:.0f} MB"
        )
    assert made < 60
    assert ran < 10
