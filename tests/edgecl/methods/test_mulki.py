"""MulKI: the loss by hand, the weights of its teachers, the former model's share."""

import torch
from tests.edgecl.methods.shared.towers import F_WIDTH, SCALE, encoded, factors, method_of, view
from torch.nn import functional as F

from edgecl.backbones import Clip
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.methods.base import Batch
from edgecl.methods.mulki import teacher_shares

# -- the mean of the weights


def test_mulki_connects_from_the_second_task_on(tiny_clip: Clip) -> None:
    method = method_of("mulki", tiny_clip, former=0.25)
    mean, former = torch.ones(1, 2, 2), torch.full((1, 2, 2), 5.0)
    assert torch.equal(method.connected(0, mean, former), mean)
    assert torch.equal(method.connected(1, mean, former), torch.full((1, 2, 2), 2.0))


# -- the losses by hand


def test_the_loss_of_mulki_by_hand(tiny_clip: Clip) -> None:
    torch.manual_seed(0)
    method = method_of("mulki", tiny_clip, align=0.5, distil=2.0)
    start = factors(method, 1)
    features = {teacher: torch.randn(6, F_WIDTH) for teacher in ("initial", "former")}
    task = view(tiny_clip, index=1, learned=start, state=start, features=features)
    constants = method.constants(task)
    rows, cls = torch.tensor([3, 0, 4]), torch.randn(3, F_WIDTH)
    labels, image = task.labels[rows], F.normalize(cls, dim=-1)
    texts = F.normalize(torch.randn(2, F_WIDTH), dim=-1)
    loss = method.loss(Batch(encoded(cls), labels, 2, constants, rows), {"texts": texts})

    side = TextEncoder(tiny_clip)
    of_teacher = {
        "initial": side.zero_shot(task.class_rows),
        "former": method.embed(side, task.class_rows, start),
    }
    wanted = F.cross_entropy(SCALE * image @ texts.T, labels)
    pulls, right = [], []
    for teacher, raw in features.items():
        unit = F.normalize(raw, dim=-1)
        prototypes = torch.stack([unit[task.labels == label].mean(dim=0) for label in (0, 1)])
        prototypes = F.normalize(prototypes, dim=-1)
        if teacher == "former":
            wanted = wanted + 0.5 * F.cross_entropy(SCALE * texts @ prototypes.T, torch.arange(2))
        pull = torch.zeros(3)
        for to in (prototypes, of_teacher[teacher]):
            said = (SCALE / 2 * unit[rows] @ to.T).softmax(dim=-1)
            pull = pull - 4 * (said * (SCALE / 2 * image @ to.T).log_softmax(dim=-1)).sum(dim=-1)
        pulls.append(pull)
        own = (SCALE * unit[rows] @ of_teacher[teacher][2:].T).softmax(dim=-1)
        right.append(own[torch.arange(3), labels])
    shares = torch.stack(right) / torch.stack(right).sum(dim=0)
    wanted = wanted + 2.0 * (shares * torch.stack(pulls)).sum(dim=0).mean()
    torch.testing.assert_close(loss, wanted)


def test_a_teacher_weighs_what_it_gives_to_the_right_class() -> None:
    """Per image: 0.6 against 0.2, and 0.3 against 0.3."""
    right = torch.tensor([[0.6, 0.3], [0.2, 0.3]])
    shares = teacher_shares(right.log())
    torch.testing.assert_close(shares, torch.tensor([[0.75, 0.5], [0.25, 0.5]]))
