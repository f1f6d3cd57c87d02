"""A power cut at every step of an enrolment, and in what a local folder refuses to believe."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.deploy.support.crash_model import Cut, History, Recorder, materialise
from tests.deploy.support.sources import fast_folder
from tests.deploy.support.units import folder_modes, restricted_unit

from edgecl_deploy.enrol import deciding
from edgecl_deploy.enrol import local as local_folder
from edgecl_deploy.enrol.local import Local, LocalDisk, objects_of
from edgecl_deploy.enrol.records import (
    Entry,
    Held,
    LocalGeneration,
    Record,
    local_name,
    parse_local,
    parse_record,
)
from edgecl_deploy.errors import (
    BusyError,
    DeployError,
    LimitError,
    ManifestError,
    OptionError,
    StoreError,
)
from edgecl_deploy.format import canonical, digest, write_tensors
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.store.layout import CURRENT

HASH = digest(b"")


class Recording(Recorder, LocalDisk):
    """A recorder of a local folder that notes what the writes promise."""

    def point(self, path: Path, text: str) -> None:
        with self.promising("current", text):
            super().point(path, text)

    def append(self, path: Path, data: bytes) -> None:
        with self.promising(("line", data), True):
            super().append(path, data)


def made(name: str, seed: int = 0, release: int = 1) -> tuple[Record, dict[str, bytes]]:
    feature = np.random.default_rng(seed).normal(0, 1, (3, 4)).astype(np.float32)
    blob = write_tensors({"feature": feature})
    held = Held(digest(blob), "float32", feature.shape)
    record = Record(
        name, False, 0, "plain", HASH, HASH, HASH, release, HASH, 0, "ada", held,
        {digest(blob): len(blob)},
    )  # fmt: skip
    return record, {digest(blob): blob}


def enrol(local: Local, name: str, seed: int = 0, release: int = 1, **options: Any) -> int:
    manifest, objects = objects_of(*made(name, seed, release))
    with local.lock():
        content = local.read()
        entry = Entry(manifest, len(objects[manifest]), name)
        return local.write(
            (*content.entries, entry), content.hidden, objects, "enrolled", **options
        )


def names_of(local: Local) -> list[str]:
    return [entry.name for entry in local.read().entries]


def full(local: Local) -> None:
    for seed, name in enumerate(("lemon", "pink", "sky")):
        enrol(local, name, seed)


SCENARIOS: dict[str, tuple[Callable[[Local], object], Callable[[Local], object]]] = {
    "the first class": (lambda _: None, lambda local: enrol(local, "lemon")),
    "one more class": (full, lambda local: enrol(local, "grass", 7)),
    "a class is removed": (full, lambda local: deciding.remove(local, "pink")),
    "a class is purged": (full, lambda local: deciding.remove(local, "pink", purge=True)),
}


def facts(path: Path) -> dict[Any, Any]:
    """What is there after a cut; every generation that is there must be whole."""
    local, found = Local(path), {}
    if (path / CURRENT).is_symlink():
        found["current"] = str((path / CURRENT).readlink())
    content = local.read()
    assert content.wrong == "" or "current" not in found  # a cut before the first one
    for number in local._numbers():
        part = local._content(number)
        assert part is not None
        assert [each.wrong for each in part.kept] == [""] * len(part.kept)
    log = path / "log.jsonl"
    if log.exists():
        found |= {("line", line): True for line in log.read_bytes().splitlines(True)}
    return found


class Checker:
    """Judges the cuts of one scenario; the same tree is judged once."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "cut"
        self.known: dict[Any, tuple[dict[Any, Any], str | None]] = {}

    def trouble(self, cut: Cut) -> str | None:
        tree = tuple(sorted(cut.tree.items()))
        if tree not in self.known:
            self.place.mkdir()
            materialise(cut.tree, self.place)
            self.known[tree] = self._judge(self.place / "local")
            shutil.rmtree(self.place)
        found, trouble = self.known[tree]
        for key, allowed in cut.allowed.items():
            if found.get(key) not in allowed:
                return f"{key} is {found.get(key)!r}"
        return trouble

    def _judge(self, path: Path) -> tuple[dict[Any, Any], str | None]:
        found: dict[Any, Any] = {}
        try:
            found = facts(path)
            enrol(Local(path), "after", 9)  # the retry
            assert names_of(Local(path))[-1] == "after"
            facts(path)
        except (AssertionError, DeployError, OSError) as error:
            return found, repr(error)
        return found, None


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_cut_is_survived_and_every_sync_is_needed(name):
    prepare, run = SCENARIOS[name]
    with fast_folder() as folder:
        base = folder / "run"
        base.mkdir()
        before = Recording(base)
        prepare(Local(base / "local", before, lambda: 0.0))
        before.look()
        known = facts(base / "local") if (base / "local").exists() else {}
        disk = Recording(base)
        run(Local(base / "local", disk, lambda: 0.0))
        disk.look()
        history = History(before.steps, disk.steps, known)
        checker = Checker(folder)
        for cut in history.cuts():
            wrong = checker.trouble(cut)
            assert wrong is None, f"a cut after {history.steps[cut.step]}: {wrong}"
        for number in history.syncs():
            caught = any(checker.trouble(cut) for cut in history.cuts(without=number))
            assert caught, f"nothing needs {history.steps[number]}"


# -- what is not believed -------------------------------------------------------------------------


def test_old_generations_go_and_with_a_purge_their_objects(tmp_path):
    local = Local(tmp_path / "local")
    full(local)
    assert local._numbers() == {2, 3}
    (blob,) = made("pink", 1)[0].blobs
    path = local.path / "objects" / blob
    deciding.remove(local, "pink")
    assert path.exists()  # the generation before still has it
    deciding.remove(local, "sky", purge=True)
    assert not path.exists()
    assert names_of(local) == ["lemon"]
    assert blob not in {each.name for each in local.path.rglob("*")}


def test_no_object_is_removed_while_a_manifest_that_stays_cannot_be_read(tmp_path):
    local = Local(tmp_path / "local")
    full(local)
    path = local.path / "objects" / local.read().entries[0].manifest
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-1])
    for seed, name in enumerate(("grass", "straw", "sand"), 5):
        enrol(local, name, seed)
    (blob,) = made("lemon", 0)[0].blobs
    assert (local.path / "objects" / blob).exists()
    with pytest.raises(StoreError, match="'lemon', which is damaged"):
        deciding.remove(local, "sand", purge=True)
    before = {each.name for each in local.path.rglob("*")}
    for _ in range(3):
        with pytest.raises(StoreError, match="'lemon', which is damaged"):
            deciding.forget(local, 2, lambda name: name in {"sand", "straw"})
        after = {each.name for each in local.path.rglob("*")}
        assert len(after - before) == 1  # the generation without the two
    path.write_bytes(whole)
    assert local.damages() == {}
    assert names_of(local) == ["lemon", "pink", "sky", "grass"]
    enrol(local, "grass", 9, release=2)
    deciding.forget(local, 2, lambda name: name in {"sand", "straw", "grass"})
    assert names_of(local) == ["lemon", "pink", "sky", "grass"], "what is newer stays"
    old = {blob for seed in (5, 6, 7) for blob in made("", seed)[0].blobs}
    assert not old & {each.name for each in local.path.rglob("*")}


def test_a_class_that_was_removed_is_purged_later(tmp_path):
    local = Local(tmp_path / "local")
    full(local)
    (blob,) = made("pink", 1)[0].blobs
    deciding.remove(local, "pink")
    with pytest.raises(OptionError, match="one of this device"):
        deciding.remove(local, "pink")
    assert deciding.remove(local, "pink", purge=True) == 4
    assert (names_of(local), local._numbers()) == (["lemon", "sky"], {4})
    assert blob not in {each.name for each in local.path.rglob("*")}
    with pytest.raises(OptionError, match="one of this device"):
        deciding.remove(local, "pink", purge=True)


def test_a_purge_that_was_cut_is_ended_and_one_that_wrote_in_vain_removes_nothing(tmp_path):
    local = Local(tmp_path / "local")
    full(local)
    (local.path / "objects" / HASH).write_bytes(b"")
    deciding.forget(local, 1, lambda _: True)
    assert not (local.path / "objects" / HASH).exists()
    local.disk.point(local.path / CURRENT, local_name(2))  # as if a writer had been cut, twice
    (local.path / local_name(4)).write_bytes((local.path / local_name(3)).read_bytes())
    deciding.forget(local, 1, lambda _: True)
    assert (local.current(), local._numbers()) == (2, {2, 3, 4})
    deciding.forget(local, 2, lambda name: name == "sky")
    assert (names_of(local), local._numbers()) == (["lemon", "pink"], {5})


def test_a_unit_that_may_not_set_the_bit_of_the_group_inherits_it(tmp_path):
    local = Local(tmp_path / "local")
    with restricted_unit(local.path):
        enrol(local, "lemon")
    assert folder_modes(local.path) == {"objects": 0o2770, "generations": 0o2770}


def test_a_damaged_generation_gives_way_to_the_one_before_it(tmp_path):
    local = Local(tmp_path / "local")
    full(local)
    path = local.path / local_name(3)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"lemon", b"melon"))
    content = local.read()
    assert (content.number, "generation 3 is damaged" in content.wrong) == (2, True)
    assert "generation 2 counts" in content.wrong
    assert CURRENT in local.damages()
    assert enrol(local, "grass", 5) == 4
    assert names_of(local) == ["lemon", "pink", "grass"]
    for each in (local.path / "generations").iterdir():
        each.unlink()
    with pytest.raises(StoreError, match="enrol its classes again"):
        local.read()
    assert CURRENT in local.damages()


@pytest.mark.parametrize("text", [None, b"generations/000003.json", "../elsewhere"])
def test_classes_outlive_current(tmp_path, text):
    local = Local(tmp_path / "local")
    full(local)
    path = local.path / CURRENT
    path.unlink()
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text is not None:
        path.symlink_to(text)
    assert names_of(local) == ["lemon", "pink", "sky"]
    assert "generation 3 counts" in local.damages()[CURRENT]
    enrol(local, "grass", 5)
    enrol(local, "sand", 6)
    assert names_of(local) == ["lemon", "pink", "sky", "grass", "sand"]
    assert local.damages() == {}


@pytest.mark.parametrize(
    ("limit", "most"), [("MAX_CLASSES", 2), ("MAX_IMAGES", 8), ("MAX_FOLDER", 300)]
)
def test_what_is_over_the_limits_is_refused_before_a_blob_is_read(
    tmp_path, monkeypatch, limit, most
):
    local = Local(tmp_path / "local")
    full(local)
    assert sum(sum(kept.record.blobs.values()) for kept in local.read().kept) > 300
    monkeypatch.setattr(local_folder, limit, most)
    read = []
    tensor = local._tensor
    monkeypatch.setattr(local, "_tensor", lambda *given: read.append(given) or tensor(*given))
    with pytest.raises(LimitError, match=f"at most {most}"):
        local._content(3)
    assert read == []
    assert f"at most {most}" in local.damages()[CURRENT]


def test_an_enrolment_counts_once():
    entry = Entry(HASH, 9, "lemon")
    twice = LocalGeneration(1, 0, (entry, replace(entry, name="pink")))
    with pytest.raises(ManifestError, match="without repetition"):
        parse_local(twice.to_bytes())


def test_one_writer_at_a_time(tmp_path):
    local = Local(tmp_path / "local")
    with (
        local.lock(),
        pytest.raises(BusyError, match="Wait for it to end"),
        Local(local.path).lock(0.0),
    ):
        pass


def test_a_thread_that_waits_in_vain_leaves_the_writer_its_lock(tmp_path):
    local = Local(tmp_path / "local")
    with local.lock():
        with pytest.raises(BusyError), local.lock(0.0):
            pass
        assert local.write((), (), {}, "nothing") == 1


@pytest.mark.parametrize("name", ["", "objects", "generations"])
def test_a_link_leads_no_writer_to_another_folder(tmp_path, name):
    local = Local(tmp_path / "local")
    full(local)
    path = local.path / name
    moved = path.rename(tmp_path / "moved")
    path.symlink_to(moved)
    (moved / "release").write_bytes(b"of the store")
    for act in (
        local.read,
        lambda: enrol(local, "grass", 5),
        lambda: deciding.remove(local, "sky"),
    ):
        with pytest.raises(StoreError, match="Move it away"):
            act()
    assert CURRENT in local.damages()
    assert (moved / "release").exists()


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    local = Local(tmp_path / "local")
    full(local)

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.disk, "write", no_room)
    with pytest.raises(OSError, match="No space"):
        enrol(local, "grass", 5)
    assert names_of(local) == ["lemon", "pink", "sky"]


def test_documents_are_read_as_they_were_written():
    record, _ = made("lemon")
    kept = replace(
        record,
        pixels=Held("0" * 64, "uint8", (3, 8, 8, 3)),
        blobs={**record.blobs, "0" * 64: 600},
        note="from the market",
    )
    for each in (record, kept):
        assert parse_record(each.to_bytes()) == each
    generation = LocalGeneration(3, 1, (Entry(HASH, 9, "lemon", both=True),), ("red",))
    assert parse_local(generation.to_bytes()) == generation


def held_as(dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"blob": HASH, "dtype": dtype, "shape": shape}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"images": 4}, DeployError),
        ({"images": 0}, ManifestError),
        ({"kind": "name"}, ManifestError),
        ({"name": "\u200b"}, ManifestError),
        (
            {"tensors": {"feature": {"blob": HASH, "dtype": "float64", "shape": [3, 4]}}},
            DeployError,
        ),
        ({"tensors": {"feature": {"blob": HASH, "dtype": "float32", "shape": [3]}}}, ManifestError),
        ({"blobs": {}}, ManifestError),
        ({"format": "edgecl-enrolment/9"}, DeployError),
        ({"note": "x" * 1001}, ManifestError),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(change, kind):
    document = load_object(made("lemon")[0].to_bytes(), "enrolment", 10**6) | change
    with pytest.raises(kind):
        parse_record(canonical(document))
