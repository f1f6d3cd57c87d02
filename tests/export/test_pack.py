"""Packs: what a task learned and nothing else, in order, once written never touched."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from edgecl.learning.runs import Run
from edgecl.methods import build_method, methods
from edgecl.program import Program
from edgecl.program.learned import join
from edgecl.session import program_of
from edgecl_deploy.files import INDEX_FILE, read_packs
from edgecl_deploy.format import Pack, learned_from, parse_index, parse_pack, read_tensors
from edgecl_deploy.images import enlarge
from edgecl_export.canaries import shrink
from edgecl_export.errors import PackError
from edgecl_export.pack import export_packs

MakeRun = Callable[..., Run]
every_method = pytest.mark.parametrize("name", methods())


def packs_of(folder: Path) -> list[Pack]:
    return [parse_pack(data) for data in read_packs(folder)[0].values()]


def stamps(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def change(run: Run, task: int, name: str, value: float) -> None:
    """Put a value into a learned tensor of a finished task."""
    path = run.path / "tasks" / f"{task:03d}" / "learned.safetensors"
    part = load_file(path)
    part[name].view(-1)[0] = value
    save_file(part, path)


def open_again(run: Run) -> Run:
    return Run.open(run.path)


# -- what they hold --


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@every_method
def test_a_pack_holds_its_tasks_part(
    name: str, dtype: Any, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(name)
    program = program_of(run)
    ids = export_packs(run, tmp_path / "packs", dtype=dtype)
    manifests, blobs = read_packs(tmp_path / "packs")
    assert list(manifests) == ids
    for task, data in enumerate(manifests.values()):
        pack, part = parse_pack(data), run.part(task)
        assert (pack.task, pack.name, pack.program) == (task, f"task_{task:02d}", name)
        assert (pack.interface, pack.backbone) == (program.interface, program.spec.digest)
        assert pack.classes == run.record(task).classes
        declared = program.declare()
        made = {key for key, item in declared.items() if item.generated and task == 0}
        assert pack.tensors.keys() == part.keys() | made
        (blob,) = pack.blobs
        held = read_tensors(blobs[blob])
        assert held.keys() == part.keys(), "what is generated has no bytes"
        for key, tensor in part.items():
            own = dtype if declared[key].half else "float32"
            assert pack.tensors[key].dtype == str(held[key].dtype) == own
            assert pack.tensors[key].concat_axis == declared[key].concat_axis
            np.testing.assert_array_equal(held[key], tensor.numpy().astype(own))


@every_method
def test_the_device_joins_packs_as_the_learner_joins_parts(
    world: Any, name: str, make_run: MakeRun, tmp_path: Path
) -> None:
    from edgecl_deploy.files import read_bundle

    run = make_run(name)
    export_packs(run, tmp_path / "packs", dtype="float32")
    manifests, blobs = read_packs(tmp_path / "packs")
    program = read_bundle(world.bundle).bundle.program(name)
    for tasks in (1, 2, 3):
        packs = [parse_pack(data) for data in manifests.values()][:tasks]
        here = join(program_of(run).declare(), run.parts()[:tasks])
        there = learned_from(program, packs, blobs)
        assert there.keys() == here.keys()
        for key, tensor in here.items():
            np.testing.assert_array_equal(there[key], tensor.numpy())


@every_method
def test_replaced_tensors_ship_only_where_they_changed(
    name: str, make_run: MakeRun, tmp_path: Path
) -> None:
    """A method that trains on the first task only ships its adapters once, a ridge head always."""
    run = make_run(name, tasks=4)
    export_packs(run, tmp_path / "packs")
    declared = program_of(run).declare()
    replaced = {key for key, item in declared.items() if item.concat_axis is None}
    made = {key for key in replaced if declared[key].generated is not None}
    for task, pack in enumerate(packs_of(tmp_path / "packs")):
        expected = {key for key in replaced if declared[key].shipped(task)}
        expected |= made if task == 0 else set()
        assert {key for key, each in pack.tensors.items() if each.concat_axis is None} == expected


def test_adapters_are_in_the_first_pack_of_a_trained_run_only(world: Any) -> None:
    packs = packs_of(world.trained["aper-adapter"].packs["float16"])
    assert len(packs[0].tensors) == 5
    assert [list(pack.tensors) for pack in packs[1:]] == [["prototypes"], ["prototypes"]]
    sizes = [
        sum(pack.blobs[blob] for blob in {each.blob for each in pack.tensors.values()})
        for pack in packs
    ]
    assert sizes[0] > 20 * sizes[1]


def test_simplecil_packs_are_small(make_run: MakeRun, tmp_path: Path) -> None:
    """At width 384: at most 1 KB per class and 2 KB of manifest for ten classes."""
    run = make_run("simplecil", width=384, classes=10, tasks=2)
    export_packs(run, tmp_path / "packs")
    for pack in packs_of(tmp_path / "packs"):
        assert sum(pack.blobs.values()) <= 10 * 1024
        assert len(pack.to_bytes()) <= 2048
        assert pack.tensors["prototypes"].shape == (10, 1, 384)


def test_classes_that_came_before_are_known(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("simplecil", tasks=2)
    record = run.path / "tasks" / "001" / "task.json"
    value = json.loads(record.read_text())
    value["classes"], value["known"] = ["class-0-0", "new"], ["class-0-0"]
    record.write_text(json.dumps(value))
    export_packs(run, tmp_path / "packs")
    first, second = packs_of(tmp_path / "packs")
    assert first.known == ()
    assert second.known == ("class-0-0",)
    assert second.classes == ("class-0-0", "new")


# -- values that do not fit --


def test_a_value_too_large_for_float16_names_the_way_out(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("simplecil")
    change(run, 1, "prototypes", 70_000.0)
    with pytest.raises(PackError, match=r"got prototypes with 7e\+04. Use --dtype float32"):
        export_packs(run, tmp_path / "packs")
    export_packs(run, tmp_path / "wide", dtype="float32")
    change(run, 1, "prototypes", 65_504.0)
    export_packs(run, tmp_path / "fits")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_refused(
    make_run: MakeRun, tmp_path: Path, value: float, dtype: Any
) -> None:
    run = make_run("l2p")
    change(run, 0, "prompt_keys", value)
    with pytest.raises(PackError, match=r"got prompt_keys with NaN.*smaller learning rate"):
        export_packs(run, tmp_path / "packs", dtype=dtype)
    assert not (tmp_path / "packs" / INDEX_FILE).exists()


def test_a_tensor_that_half_precision_would_spoil_stays_float32(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    run = make_run("simplecil")
    right = Program.declare

    def declare(self: Program) -> dict[str, Any]:
        return {key: replace(each, half=False) for key, each in right(self).items()}

    monkeypatch.setattr(Program, "declare", declare)
    export_packs(run, tmp_path / "packs", dtype="float16")
    assert {pack.tensors["prototypes"].dtype for pack in packs_of(tmp_path / "packs")} == {
        "float32"
    }


# -- the order of tasks, and what is there already --


def test_packs_are_written_in_the_order_of_tasks(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("simplecil"), tmp_path / "packs"
    with pytest.raises(PackError, match="Export task 0 first, or all of them without --task"):
        export_packs(run, out, [1])
    first = export_packs(run, out, [0])
    assert len(first) == 1
    with pytest.raises(PackError, match="Export task 1 first"):
        export_packs(run, out, [2])
    for task in (3, -1):
        with pytest.raises(PackError, match="Learn the task first"):
            export_packs(run, out, [task])
    assert export_packs(run, out)[:1] == first
    assert list(parse_index((out / INDEX_FILE).read_bytes()).packs) == export_packs(run, out)


def test_one_by_one_gives_the_same_packs_as_all_at_once(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("l2p")
    whole = export_packs(run, tmp_path / "whole")
    for task in range(3):
        ids = export_packs(run, tmp_path / "steps", [task])
        assert ids == whole[: task + 1]
    found = [
        {path.relative_to(root): data for path, (_, data) in stamps(root).items()}
        for root in (tmp_path / "whole", tmp_path / "steps")
    ]
    assert found[0] == found[1]


@every_method
def test_a_new_task_adds_one_pack_and_touches_none(
    name: str, make_run: MakeRun, tmp_path: Path
) -> None:
    run, out = make_run(name, tasks=3), tmp_path / "packs"
    last = run.path / "tasks" / "002"
    last.rename(tmp_path / "later")
    first = export_packs(run, out)
    before = stamps(out)
    (tmp_path / "later").rename(last)
    second = export_packs(open_again(run), out)
    assert second[:2] == first
    after = stamps(out)
    for path, state in before.items():
        if path.name != INDEX_FILE:
            assert after[path] == state, f"{path} was touched"
    new = {path.parent.name for path in after.keys() - before.keys()}
    assert new == {"packs", "blobs"}
    assert len(after) - len(before) == 3  # manifest, blob, canary


def test_a_task_that_was_learned_again_replaces_its_pack(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("simplecil"), tmp_path / "packs"
    former = export_packs(run, out)
    change(run, 1, "prototypes", 9.0)
    now = export_packs(run, out, [1])
    assert (now[0], now[2]) == (former[0], former[2])
    assert now[1] != former[1]
    index = parse_index((out / INDEX_FILE).read_bytes())
    assert list(index.packs) == now
    assert set(index.extra["canaries"]) == set(now)
    (blob,) = packs_of(out)[1].blobs
    assert read_tensors(read_packs(out)[1][blob])["prototypes"].reshape(-1)[0] == 9


def test_the_index_is_replaced_whole(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before the index leaves the folder as it was; the next export continues."""
    run, out = make_run("simplecil"), tmp_path / "packs"
    first = export_packs(run, out, [0])
    right = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == INDEX_FILE:
            raise KeyboardInterrupt
        right(source, target)

    monkeypatch.setattr("edgecl_deploy.manifest.whole.os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        export_packs(run, out)
    monkeypatch.undo()
    assert list(read_packs(out)[0]) == first
    assert export_packs(run, out)[:1] == first
    assert len(read_packs(out)[0]) == 3


def test_packs_of_two_runs_do_not_mix(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "packs"
    export_packs(make_run("simplecil"), out)
    before = stamps(out)
    others = [
        make_run("l2p", out="other method"),
        make_run("simplecil", out="other backbone", width=384),
        make_run("simplecil", out="shorter", tasks=2),
    ]
    renamed = make_run("simplecil", out="other classes")
    record = renamed.path / "tasks" / "002" / "task.json"
    record.write_text(record.read_text().replace("class-2-0", "something else"))
    for other in [*others, renamed]:
        with pytest.raises(PackError, match="Write to a new folder"):
            export_packs(other, out)
    assert stamps(out) == before


def test_a_run_without_tasks_has_no_packs(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("simplecil", tasks=0)
    with pytest.raises(PackError, match="edgecl train --resume"):
        export_packs(run, tmp_path / "packs")
    assert not (tmp_path / "packs").exists()


@every_method
def test_the_program_of_a_run_is_built_without_its_backbone(name: str, make_run: MakeRun) -> None:
    run = make_run(name)
    program = program_of(run)
    assert program.interface == run.header["interface"]
    assert program.name == name
    assert program == build_method(name, program.spec, run.header["config"]).program


def test_canaries_are_images_of_each_task(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("simplecil")
    ids = export_packs(run, tmp_path / "packs")
    canaries = parse_index((tmp_path / "packs" / INDEX_FILE).read_bytes()).extra["canaries"]
    for task, name in enumerate(ids):
        blob = tmp_path / "packs" / "blobs" / f"{canaries[name]}.safetensors"
        images = read_tensors(blob.read_bytes())["images"]
        np.testing.assert_array_equal(images, shrink(run.canary(task).numpy()))


@pytest.mark.parametrize(
    ("side", "small"), [(16, 16), (32, 32), (112, 28), (224, 28), (384, 24), (518, 37), (53, 53)]
)
def test_a_canary_is_sent_in_few_pixels(side: int, small: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    sent = shrink(images)
    assert (sent.shape, sent.dtype) == ((2, small, small, 3), np.uint8)
    shown = enlarge(sent, side)
    assert shown.shape == images.shape
    square = side // small
    mean = images[0, :square, :square].mean(axis=(0, 1))
    np.testing.assert_allclose(
        shown[0, :square, :square], np.broadcast_to(mean, (square, square, 3)), atol=0.51
    )
    np.testing.assert_array_equal(shrink(shown), sent)
