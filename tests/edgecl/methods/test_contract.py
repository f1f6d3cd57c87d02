"""The contract of every method: a new method is tested here without a new line."""

import ast
import copy
import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.edgecl.methods.comparing import bits, every_method, files_of, pixels_of
from torch import Tensor

from edgecl.backbones import Backbone, Clip, load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.spec import BackboneSpec
from edgecl.catalogue import shipped
from edgecl.config import from_mapping
from edgecl.learning import runs, task_images, training
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.learning.summary import Summary
from edgecl.learning.training import Compute
from edgecl.methods import Method, build_method, methods
from edgecl.methods.config import MethodConfig
from edgecl.program.classifiers import ClosedForm
from edgecl.program.injectors import Branches
from edgecl.program.learned import join
from edgecl.session import learn_folder, learn_stream, learn_task, make_learner, open_learner
from edgecl.streams import Stream
from edgecl_deploy.format._enrol import read_enrol
from edgecl_deploy.manifest.fields import Fields

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
MakeFolders = Callable[..., Path]


def trained_tasks(method: Method, tasks: int) -> list[int]:
    return [task for task in range(tasks) if method.is_trained(task)]


def overrides(method: Method, hook: str) -> bool:
    return getattr(type(method), hook) is not getattr(Method, hook)


def fits(method: Method) -> bool:
    """Return whether the method computes anything after the training."""
    return overrides(method, "fit") or isinstance(method.program.classifier, ClosedForm)


@pytest.fixture(scope="module")
def shelf() -> dict[str, tuple[Learner, Stream]]:
    return {}


@pytest.fixture
def finished(
    make_learner: MakeLearner, make_stream: MakeStream, shelf: dict[str, tuple[Learner, Stream]]
) -> Callable[[str], tuple[Learner, Stream]]:
    """Return a function that gives a method's finished run, made once, to be read only."""

    def get(name: str) -> tuple[Learner, Stream]:
        if name not in shelf:
            stream = make_stream(test=8)
            learner = make_learner(name, stream, out="finished")
            before = copy.deepcopy(learner.backbone.model.state_dict())
            learn_stream(learner, stream)
            assert bits(before) == bits(learner.backbone.model.state_dict()), (
                "the backbone has moved"
            )
            shelf[name] = learner, stream
        return shelf[name]

    return get


Finished = Callable[[str], tuple[Learner, Stream]]


# -- the file and its configuration


@every_method
def test_the_file_is_short_and_says_where_it_comes_from(name: str) -> None:
    method = methods()[name]
    module = inspect.getmodule(method)
    assert module is not None
    text = module.__doc__ or ""
    assert method.paper in text
    assert re.match(r"https://\S+$", method.paper)
    for heading in ("Injection:", "Matcher:", "Differs from the paper:"):
        assert heading in text, heading
    assert len(inspect.getsource(module).splitlines()) <= 150
    assert method.__doc__
    assert method.title
    assert method.family


@every_method
def test_the_config_is_frozen_data_with_defaults_that_round_trips(name: str) -> None:
    config_type = methods()[name].config_type
    assert dataclasses.is_dataclass(config_type)
    assert issubclass(config_type, MethodConfig)
    assert config_type.__dataclass_params__.frozen  # type: ignore[attr-defined]
    config = config_type()
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    assert from_mapping(config_type, stored, name) == config
    for field in dataclasses.fields(config_type):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)


@every_method
def test_a_method_file_touches_no_data_optimiser_or_disk(name: str) -> None:
    module = inspect.getmodule(methods()[name])
    assert module is not None
    nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    beyond = (
        "edgecl.learning.runs",
        "edgecl.learning.learner",
        "edgecl.session",
        "edgecl.streams",
        "torch.optim",
        "pathlib",
    )
    assert not [one for one in imported if one.startswith(beyond)]


@every_method
def test_parts_are_declared_and_the_backbone_is_not_among_them(
    name: str, finished: Finished
) -> None:
    learner, stream = finished(name)
    declared = learner.method.program.declare()
    owned = {tensor.data_ptr() for tensor in learner.backbone.model.state_dict().values()}
    parts = learner.run.parts()
    for task, part in enumerate(parts):
        classes = len(stream.tasks[task].classes)
        former = sum(len(earlier.classes) for earlier in stream.tasks[:task])
        for tensor_name, tensor in part.items():
            item = declared[tensor_name]
            assert tensor.dtype == torch.float32
            assert tensor.shape == item.shape(classes, former, task), tensor_name
            assert tensor.isfinite().all()
            assert tensor.data_ptr() not in owned
            assert not set(tensor_name.split(".")) & set(learner.backbone.model.state_dict())
        due = {n for n, item in declared.items() if item.shipped(task)}
        assert part.keys() == due, "a task ships what is declared: see `TensorSpec.once`"
        sizes = {n: tensor.numel() * (2 if declared[n].half else 4) for n, tensor in part.items()}
        listed = shipped(learner.method, task + 1, classes)
        kinds = [kind for kind in listed if kind != "once" or not task]
        assert sum(sizes.values()) == sum(listed[kind].bytes for kind in kinds)
        assert not part.keys() & learner.method.local().keys()
    made = {n for n, item in declared.items() if item.generated is not None}
    assert set().union(*parts) == declared.keys() - made, "all is learned in some task, or made"
    learned = learner.learned()
    for tensor_name, item in declared.items():
        sizes = dict(zip(item.axis_names, learned[tensor_name].shape, strict=True))
        assert item.sizes.items() <= sizes.items()
        assert all(sizes[axis] >= least for axis, least in item.least.items())
        if "c" in sizes:
            assert sizes["c"] == len(stream.classes)


@every_method
def test_slots_belong_to_what_the_injector_makes(name: str, tiny_clip: Clip) -> None:
    method = build_method(name, BackboneSpec.of(tiny_clip))
    declared = method.program.declare()
    assert ("injected" in method.program.passes) == bool(method.program.slots())
    for slot_name, slot in method.program.slots().items():
        if slot.source == "learned":
            bank = "t " if isinstance(method.program.injector, Branches) else ""
            assert bank + slot.axes == declared[slot_name].axes
        if slot.pad_axis is not None:
            assert slot.pad_axis in slot.axes.split()
            assert slot.pad_axis not in slot.sizes
        assert json.loads(json.dumps(slot.to_json()))["axes"] == slot.axes.split()


# -- classes on the device

ENROLS = {  # of everything else a class needs a training
    "mean": {"simplecil", "aper-adapter", "aper-finetune", "aper-ssf", "aper-vpt-deep",
             "aper-vpt-shallow", "acmap"},
    "ridge": {"ranpac", "layup"},
    "discriminant": {"lda"},
    "text": {"zero-shot", "cgil", "joint-prompts", "rapf"},
}  # fmt: skip


@every_method
def test_a_program_declares_how_a_device_gives_it_a_class(name: str, tiny_clip: Clip) -> None:
    program = build_method(name, BackboneSpec.of(tiny_clip)).program
    declared, enrol = program.declare(), program.enrol
    kind = None if enrol is None else enrol.kind
    assert kind == next((kind for kind, names in ENROLS.items() if name in names), None)
    if enrol is None:
        return
    assert declared[enrol.tensor].axis_names[0] == "c"
    assert set(enrol.depends) == set(program.injector.declare())
    assert read_enrol(Fields({"enrol": enrol.to_json()}, name), declared) == enrol
    rows = {each for each, item in declared.items() if "c" in item.axis_names}
    assert rows == {enrol.tensor, enrol.scale, enrol.bias} - {None}
    if enrol.kind == "ridge":
        width = declared[enrol.tensor].sizes["m"]
        if enrol.expand is not None:
            projection = declared[enrol.expand.tensor]
            assert projection.axis_names == ("d", "m")
            assert (projection.sizes["d"], projection.sizes["m"]) == (enrol.columns[1], width)
        else:
            assert enrol.columns[1] == width


def test_a_head_that_no_factor_solves_takes_no_class(tiny_clip: Clip) -> None:
    spec = BackboneSpec.of(tiny_clip)
    assert build_method("ranpac", spec, {"truncate": 25}).program.enrol is None
    assert build_method("ranpac", spec, {"truncate": 0}).program.enrol is not None


# -- training


@every_method
def test_the_backbone_is_frozen_and_stays_bit_for_bit(name: str, finished: Finished) -> None:
    learner, _ = finished(name)  # compares the weights before and after
    assert not learner.backbone.model.training
    for parameter_name, parameter in learner.backbone.model.named_parameters():
        assert parameter.grad is None, parameter_name
        assert not parameter.requires_grad, parameter_name


@every_method
def test_every_trained_tensor_gets_a_gradient_and_moves(
    name: str, make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(train=8)
    learner = make_learner(name, stream)
    largest: dict[int, float] = {}
    moved: dict[int, bool] = {}
    make_optimizer = training.make_optimizer

    def watched(schedule: Any, leaves: list[Tensor], *rest: Any) -> torch.optim.Optimizer:
        optimizer = make_optimizer(schedule, leaves, *rest)
        starts = [leaf.detach().clone() for leaf in leaves]

        def note(*_: object) -> None:
            for index, leaf in enumerate(leaves):
                if not leaf.requires_grad:
                    continue  # it rests in this epoch
                assert leaf.grad is not None, f"{names[index]} gets no gradient"
                largest[index] = max(largest.get(index, 0), leaf.grad.abs().max().item())
                moved[index] = moved.get(index, False) or not torch.equal(leaf, starts[index])

        optimizer.register_step_post_hook(note)
        return optimizer

    monkeypatch.setattr(training, "make_optimizer", watched)
    declared = learner.method.program.declare()
    names = [*(n for n, item in declared.items() if item.trained), *learner.method.local()]
    learn_stream(learner, stream)
    if not trained_tasks(learner.method, len(stream.tasks)):
        assert not names
        return
    assert {names[index] for index, grad in largest.items() if grad > 0} == set(names)
    assert {names[index] for index, did in moved.items() if did} == set(names)


@every_method
def test_what_is_not_trained_is_fitted(name: str, finished: Finished) -> None:
    learner, _ = finished(name)
    for tensor_name, item in learner.method.program.declare().items():
        if not item.trained and item.generated is None:
            hooks = ("begin_task", "parametrize", "fit")
            makes = any(overrides(learner.method, hook) for hook in hooks)
            assert fits(learner.method) or makes
            assert learner.learned()[tensor_name].abs().max() > 0


@every_method
def test_training_in_bfloat16_keeps_float32_parts(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner(name, stream)
    learner.compute = Compute(torch.device("cpu"), bfloat16=True)
    learn_stream(learner, stream)
    for part in learner.run.parts():
        for tensor in part.values():
            assert tensor.dtype == torch.float32
            assert tensor.isfinite().all()


@every_method
def test_same_seed_same_bits_another_seed_other_bits(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    found = []
    for out, seed in (("one", 3), ("two", 3), ("three", 4)):
        torch.manual_seed(len(found))  # the global generator must not matter
        learner = make_learner(name, stream, out=out, seed=seed)
        learn_stream(learner, stream)
        found.append([bits(part) for part in learner.run.parts()])
    one, two, three = found
    assert one == two
    closed_form = isinstance(learner.program.classifier, ClosedForm)
    own_loop = fits(learner.method) and not closed_form
    assert (one != three) == (own_loop or bool(trained_tasks(learner.method, 2)))


@every_method
def test_a_later_task_changes_no_appended_row_and_no_earlier_file(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner(name, stream)
    declared = learner.method.program.declare()
    rows: dict[str, Tensor] = {}
    for index, task in enumerate(stream.tasks):
        files = files_of(learner.run, tasks=index)
        learn_task(learner, task, stream.classes, [t.test for t in stream.tasks[: index + 1]])
        assert files_of(learner.run, tasks=index) == files
        learned = learner.learned()
        for tensor_name, old in rows.items():
            dim = declared[tensor_name].dim
            assert dim is not None
            assert torch.equal(learned[tensor_name].narrow(dim, 0, old.shape[dim]), old)
        rows = {n: t for n, t in learned.items() if declared[n].dim is not None}
    assert bool(rows) == any(item.dim is not None for item in declared.values())


@every_method
def test_a_trained_method_fits_its_first_task(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Two colours apart from each other are told apart after a short training."""
    stream = make_stream(((0, 3),), train=8)
    scheduled = methods()[name].config_type().schedule is not None
    config = {"schedule": {"epochs": 12, "batch_size": 4}} if scheduled else {}
    learner = make_learner(name, stream, config=config)
    summary = learn_stream(learner, stream)
    if learner.method.is_trained(0) or fits(learner.method):  # else it reads class names alone
        assert summary.a_last == 1.0


# -- a prediction is a function of its image


@every_method
def test_a_prediction_depends_on_its_image_alone(
    name: str, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, stream = finished(name)
    images = pixels_of(learner, stream)
    assert len(images) > task_images.BATCH, "more than one batch"
    expected = learner.predict(images)
    order = np.random.default_rng(0).permutation(len(images))

    def check(outputs: Any, rows: np.ndarray) -> None:
        torch.testing.assert_close(outputs.scores, expected.scores[rows], rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(outputs.feature, expected.feature[rows], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            outputs.match_score, expected.match_score[rows], rtol=0, atol=1e-5
        )
        assert torch.equal(outputs.match, expected.match[rows])
        assert torch.equal(outputs.scores.argmax(dim=1), expected.scores[rows].argmax(dim=1))

    monkeypatch.setattr(learner, "cache", FeatureCache(None, learner.backbone.digest))
    check(learner.predict(images[order]), order)
    learned = learner.learned()
    for size in (1, 5):  # without the learner's own padding of batches
        for rows in np.array_split(order[:10], 10 // size):
            with torch.no_grad():
                pixels = learner.normalise(torch.from_numpy(images[rows]))
                check(learner.method.program.infer(learner.backbone.model, pixels, learned), rows)


@every_method
def test_outputs_have_the_shapes_of_a_program(name: str, finished: Finished) -> None:
    learner, stream = finished(name)
    outputs = learner.predict(pixels_of(learner, stream)[:7])
    assert outputs.scores.shape == (7, 6)
    assert outputs.feature.shape[0] == 7
    assert outputs.match.shape == outputs.match_score.shape
    assert outputs.match.shape[0] == 7
    assert outputs.match.dtype == torch.int64
    assert outputs.match.min() >= 0


# -- tasks


@every_method
@pytest.mark.parametrize("tasks", [1, 2, 6])
def test_any_number_of_tasks(
    name: str, tasks: int, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream([(hue,) for hue in range(tasks)], train=2, test=1)
    learner = make_learner(name, stream)
    summary = learn_stream(learner, stream)
    assert len(summary.matrix) == tasks
    scores = learner.predict(pixels_of(learner, stream)).scores
    assert scores.shape == (tasks, tasks)
    assert scores.isfinite().all()
    kept = [(learner.run.path / "tasks" / f"{t:03d}" / runs.STATE).exists() for t in range(tasks)]
    assert not any(kept[: -1 - runs.KEEP]), "the newest statistics are needed, and to undo a task"
    assert kept[-1] == bool(learner.run.state())


@every_method
def test_the_next_task_is_learned_without_an_old_image(
    name: str, make_learner: MakeLearner, make_stream: MakeStream, make_folders: MakeFolders
) -> None:
    """A task from a folder, by a run whose stream is gone, is that task inside the stream."""
    stream = make_stream(((0, 1), (2, 3)), train=5)
    whole = make_learner(name, stream, out="whole")
    learn_stream(whole, stream)
    learner = make_learner(name, stream)
    learn_task(learner, stream.tasks[0], stream.classes, [stream.tasks[0].test])
    opened = open_learner(
        learner.run.path, device="cpu", backbone=learner.towers,
        cache=FeatureCache(None, learner.backbone.digest),
    )  # fmt: skip
    folder = make_folders({"hue-2": 2, "hue-3": 3})
    record = learn_folder(opened, folder, "new colours", leave_stream=True)
    assert record.classes == ("hue-2", "hue-3")
    assert record.name == "new colours"
    assert record.train_images == 10
    assert bits(opened.run.part(1)) == bits(whole.run.part(1))
    assert opened.run.evaluation(1) is None
    summary = Summary.from_json(json.loads((opened.run.path / "metrics.json").read_text()))
    assert summary.not_evaluated == ("new colours",)
    assert len(summary.matrix) == 1
    # All classes, old and new, are told apart as in the uninterrupted run.
    images = pixels_of(whole, stream)
    assert torch.equal(opened.predict(images).scores, whole.predict(images).scores)


@every_method
def test_a_class_that_owns_rows_of_several_tasks(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Domain by domain each task appends rows for the same classes; accuracy counts the name."""
    stream = make_stream(((0, 3), (0, 3)), train=6, protocol="dil")
    learner = make_learner(name, stream)
    summary = learn_stream(learner, stream)
    assert [record.known for record in learner.run.records()] == [(), ("hue-0", "hue-3")]
    assert learner.run.class_rows() == [("hue-0", "hue-3")] * 2
    images = pixels_of(learner, stream)
    scores = learner.predict(images).scores
    assert scores.shape[1] == 4
    names = ["hue-0", "hue-3", "hue-0", "hue-3"]
    truth = [stream.classes[label] for task in stream.tasks for label in task.test.labels]
    right = [
        names[row] == true for row, true in zip(scores.argmax(dim=1).tolist(), truth, strict=True)
    ]
    assert summary.a_last == pytest.approx(np.mean(right))
    assert summary.protocol == "dil"


# -- identity


def varied(value: Any) -> Any:
    return value - 1 if isinstance(value, int) else 2 * value or 1.0


@every_method
def test_the_interface_is_what_shapes_the_graph(
    name: str, tiny_clip: Clip, make_clip: Callable[[Backbone], Clip]
) -> None:
    spec = BackboneSpec.of(tiny_clip)
    config = methods()[name].config_type()

    def interface(spec: BackboneSpec, **changed: Any) -> str:
        return build_method(name, spec, changed).program.interface

    plain = interface(spec)
    assert plain == interface(spec)
    assert re.match(r"[0-9a-f]{64}$", plain)
    for field in methods()[name].options:
        assert interface(spec, **{field: varied(getattr(config, field))}) != plain, field
    if config.schedule is not None:
        schedule = {"epochs": config.schedule.epochs + 1, "lr": config.schedule.lr / 2}
        assert interface(spec, schedule=schedule) == plain
    other = load_backbone("vit-tiny-16", image_size=32, depth=2, random_seed=1)
    assert interface(BackboneSpec.of(make_clip(other))) != plain
    interfaces = {build_method(each, spec).program.interface for each in methods()}
    assert len(interfaces) == len(methods())


@every_method
def test_a_run_rebuilds_its_method(name: str, make_learner: MakeLearner) -> None:
    learner = make_learner(name)
    header = json.loads((learner.run.path / "run.json").read_text())
    assert header["interface"] == learner.method.program.interface
    assert BackboneSpec.from_json(header["spec"]) == learner.method.spec
    again = make_learner_of(learner)
    assert again.method.config == learner.method.config
    assert again.method.program.interface == learner.method.program.interface


def make_learner_of(learner: Learner) -> Learner:
    run = Run.open(learner.run.path)
    return make_learner(run, learner.towers, learner.compute, learner.reporter, learner.cache)


@every_method
def test_join_of_no_part_has_no_row(name: str, tiny_clip: Clip) -> None:
    declared = build_method(name, BackboneSpec.of(tiny_clip)).program.declare()
    joined = join(declared, [])
    assert {
        n: joined[n].shape[item.dim] for n, item in declared.items() if item.dim is not None
    } == {n: 0 for n, item in declared.items() if item.dim is not None}
    assert not [n for n in joined if declared[n].dim is None and declared[n].generated is None]
