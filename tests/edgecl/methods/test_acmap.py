"""ACMap: one task is APER's adapted branch; what is merged, what moves and when that ends."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from tests.edgecl.support import bank, view
from torch import Tensor

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.acmap import Acmap
from edgecl.program.fitting import NOTHING
from edgecl.program.learned import Tensors, with_part
from edgecl.program.matchers.keys import cosine
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
WIDTH, CLASSES, EACH = 192, 2, 3


def test_one_task_is_the_adapted_branch_of_aper(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1, 2),))
    config = {"schedule": {"epochs": 2, "batch_size": 4, "lr": 0.02}}
    both = {name: make_learner(name, stream, out=name, config=config) for name in NAMES}
    for learner in both.values():
        learn_stream(learner, stream)
    ours, aper = (learner.run.part(0) for learner in both.values())
    adapters = both["acmap"].method.program.injector.declare()
    assert all(torch.equal(ours[name], aper[name]) for name in adapters)
    assert ours["adapter_up"].abs().max() > 0
    torch.testing.assert_close(ours["prototypes"], aper["prototypes"][:, 1], rtol=0, atol=1e-6)
    images = both["acmap"].load(stream.tasks[0].test, "").images
    feature = both["aper-adapter"].predict(images).feature[:, WIDTH:]
    want = cosine(feature, aper["prototypes"][:, 1])
    torch.testing.assert_close(both["acmap"].predict(images).scores, want, rtol=0, atol=1e-5)


NAMES = ("acmap", "aper-adapter")


def run_by_hand(method: Acmap, own: list[Tensors], images: Tensor) -> tuple[Tensors, list[Tensors]]:
    """Learn tasks whose trainings end as given, where an adapter moves every feature as much.

    Returns:
        What was learned, and where each task started.
    """
    declared, state, starts = method.program.declare(), {}, []
    learned: Tensors = {"prototypes": torch.zeros(0, WIDTH), "task_rows": torch.zeros(0)}
    for index, trained in enumerate(own):
        task = view(method, index, CLASSES, learned, state=state)
        fresh = {name: learned.get(name, torch.zeros(1)) for name in trained}
        starts.append(method.begin_task(task, fresh))
        ends = trained if method.schedule(index).train.epochs else starts[-1]
        part = method.end_task(task, ends) | {"task_rows": torch.tensor([float(CLASSES)])}
        learned = with_part(declared, learned, part)

        labels = torch.arange(CLASSES).repeat_interleave(EACH)
        world = partial(encoded, images[index], learned)
        fitted = method.fit(replace(task, learned=learned, labels=labels, encode=world))
        learned, state = with_part(declared, learned, fitted.part), fitted.state
    return learned, starts


def encoded(
    images: Tensor, learned: Tensors, _: object, instead: Mapping[str, Tensor] = NOTHING
) -> Tensors:
    return {"feature": images + offset({**learned, **instead})}


def offset(adapters: Mapping[str, Tensor]) -> Tensor:
    """Return by how much these adapters move a feature, in a world where they only do that."""
    return adapters["adapter_up_bias"].mean(dim=0)


def test_prototypes_are_as_if_old_images_were_seen_again_where_adapters_move_all_alike(
    tiny_clip: Clip,
) -> None:
    """Up to the last merge; there A moves once more and the shifts stay, as in the public code."""
    method = build_method("acmap", BackboneSpec.of(tiny_clip), {"rank": 4, "merges": 4})
    assert isinstance(method, Acmap)
    shapes = {name: item.shape(2) for name, item in method.adapters.declare().items()}
    own = [
        {name: bank(*shape, seed=task).float() for name, shape in shapes.items()}
        for task in range(6)
    ]
    images = bank(6, CLASSES * EACH, WIDTH, seed=9).float()
    plain = images.unflatten(1, (CLASSES, EACH)).mean(dim=2)  # task, class, feature
    for tasks in (1, 3, 4, 6):
        learned, starts = run_by_hand(method, own[:tasks], images)
        merged = {n: torch.stack([a[n] for a in own[: min(tasks, 4)]]).mean(dim=0) for n in own[0]}
        for name, mean in merged.items():
            torch.testing.assert_close(learned[name], mean)
        for index, start in enumerate(starts[1:], 1):
            if index < 4:
                assert all(torch.equal(start[name], own[0][name]) for name in own[0])
            else:
                assert all(torch.equal(start[name], learned[name]) for name in own[0])
        rows = learned["prototypes"] + learned["shift"].repeat_interleave(CLASSES, dim=0)
        at = {1: own[:1], 3: own[:3], 4: own[:3], 6: own[:3]}[tasks]  # A when the shifts were made
        moved = offset({n: torch.stack([a[n] for a in at]).mean(dim=0) for n in own[0]})
        first = min(tasks, 3)
        want = (plain[:first] + moved).flatten(0, 1)
        torch.testing.assert_close(rows[: len(want)], want, rtol=0, atol=1e-5)
        later = (plain[first:tasks] + offset(learned)).flatten(0, 1)
        torch.testing.assert_close(rows[len(want) :], later, rtol=0, atol=1e-5)


def test_nothing_is_trained_once_the_adapter_stays(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("acmap", stream, config={"merges": 2})
    learn_stream(learner, stream)
    first, second, third = learner.run.parts()
    for name in learner.program.injector.declare():
        assert torch.equal(second[name], third[name])
    assert not torch.equal(first["adapter_up"], second["adapter_up"])
    assert not learner.run.state(), "no former adapter is needed any more"
    assert third["shift"].abs().sum() == 0, "of two tasks that merge none is shifted"
