"""The file of a watch: written whole, seldom, and read with suspicion."""

import json
import os
from dataclasses import replace

import pytest
from tests.deploy.support.drifting import FIRST, SECOND, Stream, uniform
from tests.deploy.support.units import folder_modes, restricted_unit

from edgecl_deploy.drift.keeping import EVERY, NAME, Keeper, acknowledge, read_drift
from edgecl_deploy.drift.pictures import FOLDER, read_pictures
from edgecl_deploy.drift.state import ATYPICAL, LARGEST, MAX_LABELS, Mark, State, parse_state
from edgecl_deploy.drift.verdict import verdict
from edgecl_deploy.drift.watch import Settings
from edgecl_deploy.errors import DeployError
from edgecl_deploy.manifest.whole import TEMPORARY
from edgecl_deploy.store.sealed import seal


def keeper(stream, folder):
    return Keeper(stream.watch, folder, lambda: stream.watch.settings, lambda: stream.time)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "local"


def test_it_is_written_once_a_minute_and_read_again(folder):
    stream = Stream(every=0.0).skip()
    kept = keeper(stream, folder)
    writes = 0
    for _ in range(300):
        stream.tell(uniform(1, stream.count), gap=1.0)
        before = read_drift(folder)
        kept.look()
        writes += read_drift(folder) != before
    assert writes == 300 // EVERY
    kept.close()
    assert read_drift(folder) == stream.state
    assert (folder / NAME).stat().st_mode & 0o777 == 0o660
    again = Stream(every=0.0)
    keeper(again, folder)
    assert again.state == stream.state
    again.tell([0.5])
    assert again.state.images == stream.state.images + 1  # no image is skipped again


def test_what_the_operator_decides_is_taken_within_a_minute(folder):
    stream, decided = Stream(every=10.0), [Settings(50.0, 2.0)]
    kept = Keeper(stream.watch, folder, lambda: decided[-1], lambda: stream.time)
    assert stream.watch.settings == decided[-1]
    decided.append(Settings(60.0, 3.0))
    stream.time += EVERY
    kept.look()
    assert stream.watch.settings == decided[-1]


def test_a_unit_that_may_not_set_the_bit_of_the_group_keeps_pictures(folder):
    stream = Stream(pictures=2).skip().tell(uniform(30))
    with restricted_unit(folder):
        keeper(stream, folder).close()
    assert len(read_pictures(folder)) == 2
    assert folder_modes(folder) == {"drift": 0o2770}


def test_an_alarm_is_written_at_once(folder):
    stream = Stream(every=0.0, run_length=100.0).skip()
    kept = keeper(stream, folder)
    while stream.state.tracks[ATYPICAL].alarm is None:
        stream.tell([0.0], gap=0.01)
        kept.look()
    assert verdict(read_drift(folder)).alarm


def test_names_and_pictures_of_the_release_before_are_gone_within_a_minute(folder):
    stream = Stream(pictures=2).skip().tell(uniform(30))
    kept = keeper(stream, folder)
    stream.time += EVERY
    kept.look()
    assert read_drift(folder).classes
    assert len(read_pictures(folder)) == 2
    stream.mark = SECOND
    stream.tell([0.5], gap=EVERY)
    kept.look()
    found = read_drift(folder)
    assert (found.mark, found.classes, found.before.images) == (SECOND, {}, 30)
    assert read_pictures(folder) == ()


def test_a_picture_that_was_cut_in_the_middle_is_removed_with_the_next_write(folder):
    stream = Stream(pictures=2).skip().tell(uniform(30))
    kept = keeper(stream, folder)
    stream.time += EVERY
    kept.look()
    cut = folder / FOLDER / f"{TEMPORARY}0123456789abcdef"
    cut.write_bytes(b"the first half of a picture")
    stream.tell([0.5], gap=EVERY)
    kept.look()
    assert not cut.exists()
    assert len(read_pictures(folder)) == 2


@pytest.mark.parametrize("name", ["p0.0100-1000000.png", f"{TEMPORARY}0123456789abcdef"])
def test_pictures_whose_counts_are_gone_are_removed_too(folder, name):
    (folder / FOLDER).mkdir(parents=True)
    (folder / FOLDER / name).write_bytes(b"a picture")
    assert acknowledge(folder)
    assert list((folder / FOLDER).iterdir()) == []
    assert not acknowledge(folder)


def test_nothing_is_written_of_a_release_that_answers_no_more_though_no_image_came(folder):
    stream = Stream(pictures=2).skip().tell(uniform(30))
    kept = Keeper(
        stream.watch, folder, lambda: stream.watch.settings, lambda: stream.time, lambda: SECOND
    )
    kept.close()
    assert read_drift(folder) is None
    assert read_pictures(folder) == ()
    assert (stream.state.mark, stream.state.before.images) == (SECOND, 30)


def test_a_process_that_takes_over_goes_on_from_where_the_other_one_ended(folder):
    first, second = (Stream(every=0.0, run_length=100.0).skip() for _ in range(2))
    writer, other = keeper(first, folder), keeper(second, folder)
    second.tell(uniform(5))
    first.tell([0.0] * 50)
    writer.look()
    other.look()
    writer.close()
    other.close()
    assert verdict(read_drift(folder)).alarm  # it was not written over
    assert second.state == first.state


def test_to_acknowledge_is_to_begin_anew_in_every_process(folder):
    first, second = (Stream(every=0.0, run_length=100.0).skip() for _ in range(2))
    writer, other = keeper(first, folder), keeper(second, folder)
    assert not acknowledge(folder)  # nothing is there
    for stream in (first, second):
        stream.tell([0.0] * 50)
    for each in (writer, other):
        each.look()
    assert read_drift(folder) == first.state  # of the process that was first
    assert acknowledge(folder)
    for each in (writer, other):
        each.look()
    for stream in (first, second):
        assert (verdict(stream.state).alarm, stream.state.images) == (False, 0)
    writer.close()
    second.tell(uniform(30))
    second.time += EVERY
    other.look()
    assert read_drift(folder) == second.state
    assert json.loads((folder / "log.jsonl").read_text())["event"] == "drift-acknowledged"


def test_what_was_acknowledged_is_not_written_again_by_one_who_has_not_looked(folder):
    stream = Stream(every=0.0, run_length=100.0).skip().tell([0.0] * 50)
    kept = keeper(stream, folder)
    kept.look()
    assert acknowledge(folder)
    stream.tell([0.0])
    kept.close()
    assert read_drift(folder) is None


def test_a_folder_that_cannot_be_written_is_told_once(folder, caplog):
    folder.parent.joinpath("elsewhere").mkdir()
    folder.symlink_to("elsewhere")
    stream = Stream().skip().tell(uniform(5))
    kept = keeper(stream, folder)
    for _ in range(3):
        stream.tell(uniform(5), gap=100.0)
        kept.look()
    assert [each.getMessage().split(":")[0] for each in caplog.records] == ["drift-unkept"]
    assert stream.state.images == 20


def fields_of(state: State) -> dict:
    value = json.loads(state.to_bytes())
    del value["sha256"], value["format"]
    return value


def hostile():
    whole = fields_of(Stream().skip().tell(uniform(30)).state)
    yield b"", "empty"
    yield b"{" * 100_000, "nested"
    yield b"\0" * (LARGEST + 1), "long"
    for path, value in (
        (("mark", "digest"), "../../etc/passwd"),
        (("mark", "release"), 10**30),
        (("began",), -1),
        (("histogram",), [1] * 21),
        (("histogram",), [0.5] + [0] * 19),
        (("histogram",), [-1] + [0] * 19),
        (("classes",), {f"class {i}": 1 for i in range(MAX_LABELS + 1)}),
        (("classes",), {"x" * 201: 1}),
        (("classes",), {"red": 1e300}),
        (("tracks", "atypical", "state"), [1.0] * 4),
        (("tracks", "atypical", "state"), [1e300] * 5),
        (("tracks", "atypical", "state"), [None] * 5),
        (("tracks", "atypical", "score"), -1.0),
        (("tracks", "typical"), {}),
        (("camera", "brightness", "squares"), -1.0),
        (("camera", "unreadable"), []),
        (("before",), {"version": "\n", "images": 1, "alarm": False}),
        (("unknown", "hits"), True),
        (("unknown", "hits"), 31),  # of 30 images
        (("camera", "unreadable", "before"), 1),  # of none
        (("classes",), {"\x1b[2J": 1}),
        (("began",), 2**53 - 1),  # no date
    ):
        changed = json.loads(json.dumps(whole))
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        yield seal("edgecl-drift/1", changed), "/".join(path)


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for data, name in hostile()])
def test_a_file_that_no_writer_wrote_counts_as_none(data, folder):
    folder.mkdir()
    (folder / NAME).write_bytes(data)
    assert read_drift(folder) is None
    if len(data) <= LARGEST:
        with pytest.raises(DeployError):
            parse_state(data)


def test_a_file_of_another_time_is_taken_as_it_is(folder):
    """What it says of shares and counts that do not fit each other breaks nothing."""
    state = Stream().skip().tell(uniform(30)).state
    odd = replace(state, images=0, updated=0.0, unknown=replace(state.unknown, hits=0, images=0))
    folder.mkdir()
    (folder / NAME).write_bytes(odd.to_bytes())
    found = read_drift(folder)
    assert found == odd
    verdict(found)


def test_the_largest_document_fits():
    names = {("ä" * 198) + f"{i:02}": 2**53 - 1 for i in range(MAX_LABELS)}
    state = State(Mark(FIRST.digest, 1), 0.0, classes=names)
    assert len(state.to_bytes()) < LARGEST
    assert parse_state(state.to_bytes()) == state


def test_a_link_is_not_followed(folder):
    folder.mkdir()
    real = folder / "real.json"
    real.write_bytes(Stream().skip().tell(uniform(3)).state.to_bytes())
    os.symlink(real, folder / NAME)
    assert read_drift(folder) is None
