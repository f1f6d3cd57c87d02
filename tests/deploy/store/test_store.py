"""The store by itself: what is made, read, collected, checked, judged, logged."""

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.deploy.support.sources import (
    MemorySource,
    Quick,
    make_release,
    make_store,
    objects_of,
    passes,
)
from tests.deploy.support.store_checks import broken, release_of

from edgecl_deploy.errors import BusyError, DeployError, NoSpaceError, StoreError
from edgecl_deploy.manifest.canonical import canonical
from edgecl_deploy.manifest.whole import TEMPORARY
from edgecl_deploy.store import fsck
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.gc import Collected, collect, needed
from edgecl_deploy.store.health import Report, Reporter, judge, read_reports
from edgecl_deploy.store.layout import (
    CONFIG,
    CURRENT,
    GENERATIONS,
    HEALTH,
    INHIBIT,
    LOCK,
    OBJECTS,
    PART,
    ROOT,
    STAGING,
    STATE,
    TEMP,
    TUF,
)
from edgecl_deploy.store.log import LOG, OLDER, Log
from edgecl_deploy.store.records import (
    FACTORY,
    Config,
    Denied,
    Generation,
    Limits,
    Phase,
    State,
    generation_name,
    generation_number,
    parse_config,
    parse_denied,
    parse_generation,
    parse_state,
)
from edgecl_deploy.store.recover import activate, fallback, recover
from edgecl_deploy.store.store import Store, is_store, new_device_id
from edgecl_deploy.update.floor import Floor, parse_floor
from edgecl_deploy.update.machine import update
from edgecl_deploy.update.outcome import Outcome

NAME = "0" * 64


@pytest.fixture
def made(world):
    return {n: make_release(world, n, tasks=1, canary=False) for n in range(1, 6)}


@pytest.fixture
def source(made):
    return MemorySource()


@pytest.fixture
def store(world, made):
    return make_store(world, world.root / "store", made[1], disk=Quick())


@pytest.fixture
def take(store, made, source):
    """Let the store take releases one after the other."""

    def do(*numbers: int) -> None:
        for number in numbers:
            source.publish(made[number])
            assert update(store, source, test=passes).outcome is Outcome.UPDATED

    return do


def damage(store: Store, name: str) -> None:
    path = store.path / OBJECTS / name
    path.chmod(0o644)
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


# -- a store is made -------------------------------------------------------------------------------


def test_a_new_store_serves_its_factory_release(store, made):
    assert is_store(store.path)
    assert store.root == b"{}"
    assert store.current() == FACTORY
    number, files = store.read_current()
    assert (number, files.release) == (FACTORY, made[1].release)
    assert store.state == State(Phase.COMMITTED, FACTORY, 1, files.digest, last_good=FACTORY)
    assert broken(store.path) is None
    for name in files.blobs:
        assert (store.path / OBJECTS / name).stat().st_mode & 0o777 == 0o444
    assert (store.path / HEALTH).stat().st_mode & 0o7777 == 0o2770
    assert [event["event"] for event in store.log.read()] == ["init"]


def test_a_new_store_may_have_no_release(world):
    store = make_store(world, world.root / "a" / "b" / "store")
    assert store.current() is None
    assert store.serving() is None
    with pytest.raises(StoreError, match="edgecl-device update"):
        store.read_current()
    with store.lock():
        assert recover(store) == State()


@pytest.mark.parametrize("name", ["other", CONFIG, "tuf.old"])
def test_a_store_is_not_made_over_other_files(world, name):
    (world.root / "store").mkdir()
    (world.root / "store" / name).write_bytes(b"mine")
    with pytest.raises(StoreError, match="Name another folder"):
        make_store(world, world.root / "store")
    assert (world.root / "store" / name).read_bytes() == b"mine"


def test_a_store_that_was_begun_is_finished(world, made):
    class Stops(Disk):
        def replace(self, path, data):
            if path.name == CONFIG:
                self.write(path.with_name(f"{TEMPORARY}{CONFIG}"), data)
                raise KeyboardInterrupt
            super().replace(path, data)

    path = world.root / "store"
    with pytest.raises(KeyboardInterrupt):
        make_store(world, path, made[1], disk=Stops())
    assert not is_store(path)
    with pytest.raises(StoreError, match="edgecl-device init"):
        Store.open(path)
    store = make_store(world, path, made[1])
    assert broken(path) is None
    with store.lock():
        recover(store)
    assert list(path.glob(f"{TEMPORARY}*")) == []


def test_a_factory_release_must_fit_the_bundle(world, made):
    release = made[1].release
    made[1].release = type(release)(**{**vars(release), "bundle": NAME, "backbone": NAME})
    with pytest.raises(DeployError):
        make_store(world, world.root / "store", made[1])
    assert not is_store(world.root / "store")


def test_a_root_that_is_too_long_is_refused(world):
    config = Config(str(world.bundle_path), "memory:", "stable", "device-1")
    with pytest.raises(StoreError, match="512000"):
        Store.create(world.root / "store", config, b" " * 512_001)
    assert not (world.root / "store").exists()


def test_device_ids_differ():
    assert new_device_id() != new_device_id()


# -- one writer, many readers ----------------------------------------------------------------------


def test_one_writer_at_a_time(store):
    other = Store.open(store.path)
    with store.lock(), pytest.raises(BusyError, match="Wait"), other.lock():
        pass
    with other.lock():
        pass
    assert (store.path / LOCK).exists()  # it stays: who removes it may let two in


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.write_state(State()),
        lambda store: store.switch(FACTORY),
        lambda store: store.deny(NAME, "no"),
        lambda store: store.raise_floor(3),
        lambda store: store.configure(store.config),
        lambda store: store.sweep(),
    ],
)
def test_nothing_is_written_without_the_lock(store, write):
    with pytest.raises(AssertionError, match="lock"):
        write(store)


def test_a_generation_that_is_being_read_is_not_collected(store, take):
    take(2, 3, 4)
    with store.lock():  # a generation that nobody keeps
        old = store.generation(FACTORY)
        store.write_generation(Generation(9, 1, old.digest, old.objects, 0))
    path = store.path / generation_name(9)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with store.lock():
            assert collect(store).generations == 0
        assert path.exists()
    with store.lock():
        assert collect(store).generations == 1
    assert not path.exists()


def test_a_reader_of_a_removed_generation_gets_an_error(store, monkeypatch):
    lock = fcntl.flock

    def removes(file, operation):
        if operation == fcntl.LOCK_SH:
            (store.path / generation_name(FACTORY)).unlink()
        return lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removes)
    with pytest.raises(StoreError, match="Read `current` again"):
        store.read(FACTORY)


def test_a_reader_follows_a_switch(store, take, monkeypatch):
    take(2)
    read = Store.read

    def switched(self, number):
        if number == FACTORY:
            with store.lock():
                store.switch(1)
            raise StoreError("it must be there", "removed", "Read again.")
        return read(self, number)

    with store.lock():
        store.switch(FACTORY)
    monkeypatch.setattr(Store, "read", switched)
    assert Store.open(store.path).read_current()[0] == 1


def test_a_damaged_object_is_never_read(store):
    name = next(iter(store.serving().objects))
    damage(store, name)
    with pytest.raises(DeployError):
        store.read_current()
    assert store.has(name, store.serving().objects[name])
    assert not store.intact(name, store.serving().objects[name])


@pytest.mark.parametrize("text", ["", "generations/1.json", "../generations/000000.json", "/etc"])
def test_a_link_to_elsewhere_is_no_release(store, text):
    (store.path / CURRENT).unlink()
    if text:
        (store.path / CURRENT).symlink_to(text)
    assert store.current() is None


# -- generations -----------------------------------------------------------------------------------


def test_a_generation_that_is_there_is_used_again(store, made):
    old = store.serving()
    with store.lock():
        assert store.stage(1, old.digest, old.objects) == old
        anew = store.stage(1, old.digest, old.objects, anew=True)
    assert anew.number == 1
    assert store.generations().keys() == {0, 1}


def test_a_number_is_used_once(store, take):
    take(2, 3, 4)
    newest = max(store.generations())
    with store.lock():
        activate(store, store.generation(FACTORY), "a test")
        collect(store)
        assert store.generations().keys() == {FACTORY}
        assert store.next_generation() == newest + 1


def test_what_is_half_written_is_no_generation(store):
    old = store.serving()
    data = Generation(7, 1, old.digest, old.objects, 0).to_bytes()
    (store.path / GENERATIONS / f"{TEMPORARY}000007.json").write_bytes(data)
    (store.path / GENERATIONS / "notes.json").write_bytes(data)
    assert store.generations().keys() == {FACTORY}
    assert fsck.check(store) == []


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("generations/000017.json", 17),
        ("generations/1234567.json", 1234567),
        ("generations/17.json", None),
        ("generations/000017.json.old", None),
        ("generations/.tmp-000017.json", None),
        ("000017.json", None),
    ],
)
def test_the_name_of_a_generation(name, number):
    assert generation_number(name) == number
    assert number is None or generation_name(number) == name


def test_what_a_writer_left_is_swept(store):
    left = [
        f"{TEMPORARY}state.json",
        f"{OBJECTS}/{TEMPORARY}x",
        f"{GENERATIONS}/{TEMPORARY}x",
        f"{STAGING}/{NAME}",
        f"{STAGING}/{TEMP}/x",
        f"{STAGING}/{TEMP}/folder/x",
        f"{TEMPORARY}folder/x",
    ]
    stays = f"{STAGING}/{PART}/x"
    for name in (*left, stays):
        (store.path / name).parent.mkdir(exist_ok=True)
        (store.path / name).write_bytes(b"x")
    with store.lock():
        store.sweep()
    assert [name for name in left if (store.path / name).exists()] == []
    assert (store.path / stays).exists()
    assert broken(store.path) is None


# -- garbage ---------------------------------------------------------------------------------------


def test_what_is_needed_stays(store, take, made):
    take(2, 3, 4)
    with store.lock():
        collect(store)
    assert {each.release for each in store.generations().values()} == {1, 3, 4}
    assert needed(store) == store.generations().keys()
    objects = {name for n in (1, 3, 4) for name in objects_of(made[n])}
    assert set(os.listdir(store.path / OBJECTS)) == objects


def test_a_pinned_release_stays(store, take, made):
    take(2)
    with store.lock():
        store.configure(Config(**{**vars(store.config), "pinned": 2}))
        old = store.serving()
        activate(store, store.generation(FACTORY), "a test")
        collect(store)
    assert old.number in store.generations()
    with store.lock():
        store.configure(Config(**{**vars(store.config), "pinned": None}))
        assert collect(store) == Collected(1, 3, sum(old.objects[n] for n in objects_of(made[2])))
    assert store.generations().keys() == {FACTORY}


def test_what_an_update_wants_stays(store):
    (store.path / OBJECTS / NAME).write_bytes(b"12345")
    with store.lock():
        assert collect(store, {NAME}) == Collected(0, 0, 0)
        assert collect(store) == Collected(0, 1, 5)


def test_what_serves_stays_even_if_the_state_is_lost(store, take):
    take(2, 3)
    (store.path / STATE).unlink()
    with store.lock():
        collect(store)
    assert {each.release for each in store.generations().values()} == {1, 3}
    assert broken(store.path) is None


def test_old_reports_go(store):
    reporter = Reporter(store.path)
    reporter.write(Report(FACTORY))
    with store.lock():
        collect(store)
        assert len(read_reports(store.path, FACTORY)) == 1
        store.now = lambda: time.time() + 2 * 86400
        collect(store)
    assert read_reports(store.path, FACTORY) == []


def test_nothing_goes_while_what_serves_cannot_be_read(store, take):
    take(2)
    (store.path / generation_name(store.current())).write_bytes(b"moth")
    before = set(os.listdir(store.path / OBJECTS))
    with store.lock():
        assert collect(store) == Collected(0, 0, 0)
    assert set(os.listdir(store.path / OBJECTS)) == before


def test_a_damaged_generation_goes_before_its_objects(store, take):
    take(2, 3)
    number = store.state.previous
    (store.path / generation_name(number)).write_bytes(b"moth")
    with store.lock():
        assert collect(store).generations == 1
    assert not (store.path / generation_name(number)).exists()
    assert broken(store.path) is None


# -- damage and recovery ---------------------------------------------------------------------------


def test_fsck_finds_everything(store, take):
    take(2)
    assert fsck.check(store) == []
    one, two = sorted(store.serving().objects)[:2]
    damage(store, one)
    (store.path / OBJECTS / two).unlink()
    (store.path / generation_name(FACTORY)).write_bytes(b"{}")
    (store.path / CURRENT).unlink()
    found = {each.what: each.found for each in fsck.check(store)}
    assert found.pop(f"{OBJECTS}/{one}") == "other bytes"
    assert found.pop(f"{OBJECTS}/{two}") == "missing"
    assert found.pop("current") == "no release"
    assert "format" in found.pop(generation_name(FACTORY))
    assert found == {}


def test_current_without_its_generation_is_found_and_left(store, take):
    take(2)
    (store.path / generation_name(1)).unlink()
    assert [each.found for each in fsck.check(store)] == ["no such generation"]
    with store.lock():
        fsck.repair(store)
    assert store.current() == FACTORY
    assert fsck.check(store) == []


def test_repair_falls_back_and_the_next_update_fetches_again(store, take, source, made):
    take(2)
    name = next(iter(made[2].blobs))
    damage(store, name)
    with store.lock():
        assert [each.what for each in fsck.repair(store)] == [f"{OBJECTS}/{name}"]
    assert release_of(store) == 1
    source.fetched.clear()
    assert update(store, source, test=passes).outcome is Outcome.UPDATED
    assert source.fetched == [name]  # nothing else was missing
    assert release_of(store) == 2
    assert broken(store.path) is None


def test_a_denied_release_serves_no_longer_than_the_next_start(store, take):
    take(2)
    with store.lock():
        store.deny(store.serving().digest, "no good")
        assert recover(store).last_good == FACTORY
    assert release_of(store) == 1


def test_the_factory_release_serves_even_if_it_was_denied(store):
    with store.lock():
        store.deny(store.serving().digest, "no good")
        recover(store)
    assert store.current() == FACTORY


def test_no_rollback_below_the_floor_but_to_the_factory(store, take):
    take(2, 3, 4)
    with store.lock():
        assert fallback(store, store.current()).release == 3
        store.raise_floor(4)
        store.raise_floor(2)  # it never falls
        assert store.denied.min_release == 4
        assert fallback(store, store.current()).number == FACTORY


def test_no_rollback_to_a_denied_release(store, take):
    take(2, 3)
    with store.lock():
        store.deny(store.serving().digest, "no good")
        activate(store, fallback(store, store.current()), "a test")
        assert release_of(store) == 2
        assert fallback(store, store.current()).number == FACTORY


def test_a_denied_release_may_be_allowed_again(store):
    with store.lock():
        store.deny(NAME, "")
        store.deny("1" * 64, "ümlaut\n" + "x" * 5000)
        store.raise_floor(7)
        store.allow(NAME)
    assert store.denied.min_release == 7
    assert list(store.denied.releases) == ["1" * 64]
    assert store.denied.releases["1" * 64].startswith("\\xfcmlaut\\nxxx")


def test_a_rollback_that_was_interrupted_goes_where_it_was_going(store, take):
    take(2, 3)
    with store.lock():
        state = store.state
        store.write_state(state.in_phase(Phase.ROLLBACK, generation=1))
        assert recover(store).phase is Phase.COMMITTED
    assert store.current() == 1


def test_without_a_state_what_serves_is_good(store, take):
    take(2)
    (store.path / STATE).unlink()
    with store.lock():
        state = recover(store)
    assert (state.phase, state.last_good, state.newest) == (Phase.COMMITTED, 1, 1)
    assert [event["event"] for event in store.log.read()][-1] == "state rebuilt"


# -- health ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reports", "limits", "over", "wrong"),
    [
        ([], Limits(), False, None),
        ([], Limits(), True, None),
        ([], Limits(trial_requests=1), False, None),
        ([], Limits(trial_requests=1), True, "0 images in 10 s; 1 must come"),
        ([Report(1, 5), Report(1, 5)], Limits(trial_requests=10), True, None),
        ([Report(1, 9)], Limits(trial_requests=10), True, "9 images in 10 s; 10 must come"),
        ([Report(1, 10, 1)], Limits(), False, "1 of 10 images got no answer; 0 may"),
        ([Report(1, 10, 1)], Limits(trial_failures=0.1), True, None),
        (
            [Report(1, 19, 2)],
            Limits(trial_failures=0.1),
            True,
            "2 of 19 images got no answer; 1 may",
        ),
        ([Report(1), Report(1, error="no engine")], Limits(), False, "no engine"),
    ],
)
def test_a_release_on_trial_is_judged(reports, limits, over, wrong):
    assert judge(reports, limits, over) == wrong


def test_reports_are_read_by_generation(store):
    one, two = Reporter(store.path), Reporter(store.path)
    one.write(Report(1, 3))
    two.write(Report(2, 4))
    two.write(Report(2, 5, 1, "ümlaut\x1b[2J" + "x" * 1000))
    (store.path / HEALTH / "foreign.json").write_bytes(b"[]")
    (store.path / HEALTH / "long.json").write_bytes(b" " * 70_000)
    (store.path / HEALTH / "link.json").symlink_to("/dev/zero")
    (store.path / HEALTH / f"{TEMPORARY}half").write_bytes(b'{"generation": 1')
    assert read_reports(store.path, 1) == [Report(1, 3)]
    (found,) = read_reports(store.path, 2)
    assert (found.images, found.failed) == (5, 1)
    assert found.error.startswith("\\xfcmlaut\\x1b[2Jxxx")
    assert len(found.error) == 300
    two.close()
    assert read_reports(store.path, 2) == []


def test_a_report_that_cannot_be_written_changes_nothing(store):
    (store.path / HEALTH).rmdir()
    reporter = Reporter(store.path)
    reporter.write(Report(1))
    reporter.close()
    assert read_reports(store.path, 1) == []


# -- log -------------------------------------------------------------------------------------------


def test_the_log_is_rotated_and_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("edgecl_deploy.store.log.LARGEST", 2000)
    log = Log(tmp_path, Quick())
    for number in range(100):
        log.write("tick", 1.23456, number=number)
    assert (tmp_path / LOG).stat().st_size <= 2000
    assert (tmp_path / OLDER).stat().st_size <= 2000
    numbers = [event["number"] for event in log.read()]
    assert numbers == list(range(numbers[0], 100))
    assert len(numbers) > 40
    assert next(log.read())["time"] == 1.235


def test_torn_and_foreign_lines_are_skipped(tmp_path):
    log = Log(tmp_path, Quick())
    log.write("one", 1.0)
    with (tmp_path / LOG).open("ab") as file:
        file.write(b'{"event": "to\n\xff\xfe\n[1]\n{}\n\n')
    log.write("two", 2.0)
    assert [event["event"] for event in log.read()] == ["one", "two"]


# -- disk ------------------------------------------------------------------------------------------


def test_a_full_disk_is_seen_before_it_is_full(tmp_path, monkeypatch):
    class Full:
        f_bavail, f_frsize, f_blocks = 40 * 1024, 1024, 100 * 1024

    monkeypatch.setattr(os, "statvfs", lambda folder: Full)
    Disk().reserve(tmp_path, 8 * 1024 * 1024)
    with pytest.raises(NoSpaceError, match="edgecl-device gc"):
        Disk().reserve(tmp_path, 8 * 1024 * 1024 + 1)


@pytest.mark.parametrize("how", ["file", "link"])
def test_a_file_is_only_written_under_a_free_name(tmp_path, how):
    path, outside = tmp_path / "file", tmp_path / "outside"
    outside.write_bytes(b"mine")
    if how == "file":
        path.write_bytes(b"mine")
    else:
        path.symlink_to(outside)
    with pytest.raises(FileExistsError):
        Disk().write(path, b"other")
    Disk().replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    assert outside.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "outside"]


@pytest.mark.parametrize(("code", "raises"), [("EINVAL", False), ("ENOTSUP", False), ("EIO", True)])
def test_a_mount_that_cannot_sync_is_no_error(tmp_path, monkeypatch, code, raises):
    def fails(handle: int) -> None:
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(os, "fsync", fails)
    if raises:
        with pytest.raises(OSError, match=code):
            Disk().sync(tmp_path)
    else:
        Disk().sync(tmp_path)


# -- documents -------------------------------------------------------------------------------------

CONFIGURED = Config("/bundle", "https://x", "stable", "me", 3, Limits(rate_kbps=9), ("a", "b"))
DOCUMENTS = [
    (parse_config, CONFIGURED),
    (parse_state, State(Phase.TRIAL, 3, 4, NAME, 1, 7, 2, 1, 3)),
    (parse_state, State()),
    (parse_denied, Denied(3, {NAME: "why"})),
    (parse_generation, Generation(3, 4, NAME, {NAME: 5}, 6)),
    (parse_floor, Floor(NAME, 1, 2, 3)),
]
PARSERS = dict.fromkeys(parse for parse, _ in DOCUMENTS)
quick = settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(("parse", "document"), DOCUMENTS)
def test_a_document_round_trips(parse, document):
    assert parse(document.to_bytes()) == document


def judged(parse, data: bytes) -> None:
    with suppress(DeployError):
        found = parse(data)
        assert parse(found.to_bytes()) == found


@pytest.mark.parametrize("parse", PARSERS)
@quick
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_document_or_an_error(parse, data):
    judged(parse, data)


@pytest.mark.parametrize(("parse", "document"), DOCUMENTS)
@quick
@given(data=st.data())
def test_a_document_with_any_value_in_it_is_a_document_or_an_error(parse, document, data):
    fields = json.loads(document.to_bytes())
    holder = fields
    if isinstance(fields.get("limits"), dict) and data.draw(st.booleans()):
        holder = fields["limits"]
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(values)
    judged(parse, json.dumps(fields).encode())


@pytest.mark.parametrize(("parse", "document"), DOCUMENTS)
def test_a_document_of_another_version_is_refused(parse, document):
    fields = json.loads(document.to_bytes())
    name, _, version = fields["format"].partition("/")
    with pytest.raises(DeployError):
        parse(canonical({**fields, "format": f"{name}/{int(version) + 1}"}))
    for field in fields:
        missing = {key: value for key, value in fields.items() if key != field}
        judged(parse, canonical(missing))


def test_a_store_reads_only_documents_of_its_size(store):
    (store.path / STATE).write_bytes(b" " * (1024 * 1024 + 1))
    assert store.state is None
    (store.path / ROOT).write_bytes(b" " * 512_001)
    with pytest.raises(DeployError):
        _ = store.root


def test_what_a_store_holds(store):
    assert sorted(os.listdir(store.path)) == sorted([
        CONFIG, CURRENT, GENERATIONS, HEALTH, INHIBIT, LOCK, LOG, OBJECTS, ROOT, STAGING, STATE,
        TUF,
    ])  # fmt: skip
    assert (store.path / CURRENT).readlink() == Path("generations/000000.json")
