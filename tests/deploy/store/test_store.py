"""The store: how it is made, who writes and reads it, its generations."""

import fcntl

import pytest
from tests.deploy.support.sources import (
    make_store,
)
from tests.deploy.support.store_checks import broken
from tests.deploy.support.store_damage import NAME, damage

from edgecl_deploy.errors import BusyError, DeployError, StoreError
from edgecl_deploy.manifest.whole import TEMPORARY
from edgecl_deploy.store import fsck
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.store.gc import collect
from edgecl_deploy.store.layout import (
    CONFIG,
    CURRENT,
    GENERATIONS,
    HEALTH,
    LOCK,
    OBJECTS,
    PART,
    STAGING,
    TEMP,
    is_store,
)
from edgecl_deploy.store.records import (
    FACTORY,
    Config,
    Generation,
    Phase,
    State,
    generation_name,
    generation_number,
)
from edgecl_deploy.store.recover import activate, recover
from edgecl_deploy.store.store import Store, new_device_id

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


def test_who_waits_in_vain_does_not_unlock_the_writer(store):
    with store.lock():
        with pytest.raises(BusyError), store.lock():
            pass
        assert store._locked
    assert not store._locked


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
