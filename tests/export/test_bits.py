"""Packs in bits: what BLIP has rounded ships exactly, in the same bytes whenever it is exported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from edgecl.learning.learner import Learner
from edgecl.learning.policies.blip import BOUND, HALF, short, step_of, unit
from edgecl.learning.runs import Run
from edgecl.learning.training import TaskTraining
from edgecl.program.learned import Tensors
from edgecl.session import learn_task, undo
from edgecl.streams import Stream
from edgecl_deploy.files import read_packs
from edgecl_deploy.format import Pack, parse_pack, stored_tensors
from edgecl_export import bits as coding
from edgecl_export.bits import in_bits, start_of, whole_steps
from edgecl_export.cli import export
from edgecl_export.errors import PackError
from edgecl_export.pack import export_packs

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
GROUPS = ((0, 1), (2, 3), (4,))


def learned(make_learner: MakeLearner, make_stream: MakeStream, name: str, tasks: int) -> Learner:
    stream = make_stream(GROUPS)
    schedule = {"epochs": 2, "batch_size": 4, "bits": 20, "lr": 0.1}
    learner = make_learner(name, stream, config={"schedule": schedule})
    for task in stream.tasks[:tasks]:
        learn_task(learner, task, stream.classes)
    return learner


def held(folder: Path) -> list[tuple[Pack, dict[str, np.ndarray]]]:
    manifests, blobs = read_packs(folder)
    packs = [parse_pack(data) for data in manifests.values()]
    return [(pack, stored_tensors(pack, blobs)) for pack in packs]


@pytest.mark.parametrize(
    ("name", "coded"),
    [("dualprompt", "shared_prefix"), ("single-head", "head_weight"), ("l2p", "prompts")],
)
def test_packs_hold_what_was_trained_to_the_bit(
    make_learner: MakeLearner, make_stream: MakeStream, tmp_path: Path, name: str, coded: str
) -> None:
    learner = learned(make_learner, make_stream, name, 2)
    stream = make_stream(GROUPS)
    first = export_packs(learner.run, tmp_path / "packs", dtype="bits")
    learn_task(learner, stream.tasks[2], stream.classes)
    ids = export_packs(learner.run, tmp_path / "packs", dtype="bits")
    assert ids[:2] == first, "a pack is the same after a task that finds more bits"
    assert export_packs(learner.run, tmp_path / "again", dtype="bits") == ids
    seen: set[str] = set()
    for task, (pack, tensors) in enumerate(held(tmp_path / "packs")):
        part, tensor = learner.run.part(task), pack.tensors[coded]
        assert tensors[coded].tobytes() == part[coded].numpy().tobytes()
        assert tensor.bits is not None
        assert tensor.bits.nbytes < 2.5 * part[coded].numel(), "3 bytes hold any of them"
        for key, each in pack.tensors.items():
            if each.bits is None and each.dtype == "float16":
                want = part[key].numpy().astype(np.float16)
                np.testing.assert_array_equal(tensors[key], want)
            elif each.generator is None:
                np.testing.assert_array_equal(tensors[key], part[key].numpy())
        starts = {*tensor.bits.blobs}
        new = len(starts - seen)
        assert new == (1 if task == 0 or name == "single-head" else 0), "a start travels once"
        seen |= starts
    if name == "l2p":
        assert pack.tensors["prompt_keys"].dtype == "float16", "keys have no bits"
    undo(learner.run)
    assert export_packs(learner.run, tmp_path / "packs", dtype="bits") == first


def test_the_command_shows_the_bytes(
    make_learner: MakeLearner, make_stream: MakeStream, tmp_path: Path
) -> None:
    run = learned(make_learner, make_stream, "dualprompt", 2).run

    def call(*options: object) -> str:
        found = CliRunner().invoke(export, ["pack", str(run.path), *map(str, options)])
        assert found.exit_code == 0, found.output
        return found.stdout

    shown = json.loads(call("-o", tmp_path / "bits", "--dtype", "bits", "--json"))
    packs = held(tmp_path / "bits")
    own = shown["in_bits"]["shared_prefix"]
    count = run.part(0)["shared_prefix"].numel()
    assert own["float16"] == [2 * count] * 2
    assert own["bits"] == [pack.tensors["shared_prefix"].nbytes for pack, _ in packs]
    assert own["start"][0] > own["start"][1] == 0
    plain = json.loads(call("-o", tmp_path / "plain", "--json"))
    assert "in_bits" not in plain
    assert shown["bytes"][1] < plain["bytes"][1]
    files = [*(tmp_path / "bits").glob("[pb]*/*")]
    canaries = json.loads((tmp_path / "bits" / "index.json").read_text())["canaries"].values()
    used = sum(each.stat().st_size for each in files if each.stem not in canaries)
    assert sum(shown["bytes"]) == used, "what packs share counts once"
    told = call("-o", tmp_path / "bits", "--dtype", "bits")
    assert f"bits: {', '.join(map(str, own['bits']))}" in told


def test_a_run_without_bits_is_refused(
    make_learner: MakeLearner, make_stream: MakeStream, tmp_path: Path
) -> None:
    stream = make_stream(GROUPS)
    learner = make_learner("simplecil", stream)
    learn_task(learner, stream.tasks[0], stream.classes)
    with pytest.raises(PackError, match=r"got none in task 0 .* --set schedule.bits=20"):
        export_packs(learner.run, tmp_path / "packs", dtype="bits")


def test_a_tensor_with_bits_is_on_its_grid_or_refused(
    make_learner: MakeLearner,
    make_stream: MakeStream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = TaskTraining.fisher

    def everything(*given: Any) -> Tensors:
        return {name: torch.full_like(each, 1e30) for name, each in found(*given).items()}

    monkeypatch.setattr(TaskTraining, "fisher", everything)
    run = learned(make_learner, make_stream, "single-head", 1).run
    path = run.path / "tasks" / "000" / "learned.safetensors"
    part = load_file(path)
    part["head_weight"][0, 0] += 1e3  # beyond its bound
    save_file(part, path)
    with pytest.raises(PackError, match=r"at most 21 bits.* --dtype float32"):
        export_packs(Run.open(run.path), tmp_path / "packs", dtype="bits")


# -- what lies on a grid


def test_a_value_between_two_steps_is_not_in_bits() -> None:
    start = torch.tensor([0.5, -0.25, 0.0])
    step = step_of(start)
    assert step == np.float32(BOUND * unit(start)) * 2.0**-21
    on = start + torch.tensor([3.0, -7.0, 0.0]) * step
    steps = whole_steps(on, start, step)
    assert steps is not None
    assert steps.tolist() == [3, -7, 0]
    assert whole_steps(on + torch.tensor([0.0, 0.0, step / 2]), start, step) is None
    assert whole_steps(start + torch.tensor([2.0**22 * step, 0, 0]), start, step) is None
    assert whole_steps(torch.full((3,), float("nan")), start, step) is None
    assert whole_steps(on[:2], start, step) is None
    edge = start + torch.tensor([2.0**21, -(2.0**21), 2.0**21]) * step
    steps = whole_steps(edge, start, step)
    assert steps is not None, "rounding may put the last step a little outside"
    assert abs(steps).tolist() == [2**21] * 3


def test_a_start_is_rounded_where_that_changes_little() -> None:
    near = torch.randn(500, generator=torch.Generator().manual_seed(0)) / 50
    rounded = short(near)
    assert torch.equal(rounded, rounded.half().float())
    assert (rounded - near).abs().max() <= HALF * (near.abs().max() + unit(near))
    for far in (near * 1e-7, near * 1e9):
        assert torch.equal(short(far), far)
    assert not torch.signbit(short(torch.tensor([-0.0, 1.0]))).any()


def test_what_starts_constant_needs_no_bytes() -> None:
    assert start_of("w", [torch.zeros(2, 3)]) == (0.0, ())
    value, blobs = start_of("w", [torch.zeros(1, 2), torch.ones(1, 2)])
    assert isinstance(value, tuple)
    assert len(value) == len(blobs) == 2
    assert len(start_of("w", [torch.zeros(2)])[1]) == 0


def test_many_tasks_start_in_one_blob(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learned(make_learner, make_stream, "single-head", 3)
    declared = learner.declared
    each = in_bits(learner.run, 2, declared)["head_weight"]
    monkeypatch.setattr(coding, "MANY", 2)
    one = in_bits(learner.run, 2, declared)["head_weight"]
    assert (len(each.starts), len(one.starts)) == (3, 1)
    assert one.data.tobytes() == each.data.tobytes()
