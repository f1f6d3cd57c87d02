"""Federated clients: averages of what they train (FedAvg) against sums that add.

The images of every task are dealt to clients. Either each trains one linear head on frozen features
and the heads are averaged round by round, or each adds up its images once and the sums are added.
Both sides are next to the same method on one machine; with one task nothing is forgotten, and what
is lost is lost to the average. Images come once (`--epochs`). Bytes are what
a client sends in all tasks, in float32 for a head and float64 for sums, without what it receives.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

import torch
from machine import machine

from edgecl.backbones import Backbone, load_backbone
from edgecl.learning.learner import Learner
from edgecl.learning.policies.clients import parts_of, rounds
from edgecl.learning.summary import Summary
from edgecl.learning.sums import add_up
from edgecl.program.additive import total
from edgecl.program.learned import join
from edgecl.session import learn_stream, learn_task, new_learner, refresh
from edgecl.streams import Stream, load_stream

RESULTS = Path("benchmarks/results/federated.json")
SUMS = {
    "simplecil": {},
    "lda": {},
    "ranpac": {"first_session": "none", "weight": "gcv", "size": 500},
}
PLAIN = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.1, "batch_size": 10, "cosine": False}


@dataclass(frozen=True)
class Side:
    """A method on one machine and over clients.

    Attributes:
        tasks: of the stream.
        alone: A_last on one machine.
        clients: A_last over clients.
        sent: bytes that a client sends.
        messages: how often it sends.
        seconds: of all clients together.
    """

    method: str
    tasks: int
    alone: float
    clients: float
    sent: int
    messages: int
    seconds: float

    @property
    def ratio(self) -> float:
        """Return what is left of the accuracy of one machine."""
        return self.clients / self.alone


@dataclass(frozen=True)
class Setting:
    """What both sides share."""

    stream: Stream
    backbone: Backbone
    clients: int
    epochs: int
    local_steps: int
    seed: int

    def learner(self, name: str, config: dict[str, object]) -> Learner:
        """Begin a run that nobody keeps."""
        out = Path(tempfile.mkdtemp()) / "run"
        return new_learner(
            out, name, self.backbone, self.stream, config=config, seed=self.seed, protocol="online"
        )


def last(learner: Learner, learn: Callable[[], Summary | None]) -> float:
    """Learn; return the accuracy over all classes at the end."""
    summary = learn()
    assert summary is not None
    assert summary.a_last is not None
    return summary.a_last


def averages(setting: Setting) -> Side:
    """Measure heads that are averaged."""
    schedule = {**PLAIN, "epochs": setting.epochs}
    shared = {"clients": setting.clients, "local_steps": setting.local_steps}
    found = []
    for more in ({}, shared):
        began = perf_counter()
        learner = setting.learner("single-head", {"schedule": {**schedule, **more}})
        found.append(last(learner, lambda learner=learner: learn_stream(learner, setting.stream)))
    train = learner.method.config.schedule
    sent = messages = 0
    for task, part in zip(setting.stream.tasks, learner.run.parts(), strict=True):
        client = parts_of(len(task.train), setting.clients, torch.Generator())
        each = sum(1 for _ in rounds(torch.arange(len(client)), client, train)) * setting.epochs
        messages += each
        sent += each * sum(4 * tensor.numel() for tensor in part.values())
    return Side(
        "single-head", len(setting.stream.tasks), *found, sent, messages, perf_counter() - began
    )


def sums(setting: Setting, name: str) -> Side:
    """Measure sums that are added."""
    learner = setting.learner(name, SUMS[name])
    alone = last(learner, lambda: learn_stream(learner, setting.stream))
    began = perf_counter()
    learner = setting.learner(name, SUMS[name])
    stream, sent = setting.stream, 0
    for index, task in enumerate(stream.tasks):
        learned = join(learner.declared, learner.run.parts())
        generator = torch.Generator().manual_seed(setting.seed * 100_003 + index)
        client = parts_of(len(task.train), setting.clients, generator)
        place = [task.classes.index(c) if c in task.classes else -1 for c in stream.classes]
        owned = [(client == each).nonzero()[:, 0].tolist() for each in range(setting.clients)]
        parts = [add_up(learner, learned, task.train.subset(own), place).sums for own in owned]
        tests = [earlier.test for earlier in stream.tasks[: index + 1]]
        nothing = replace(task, train=task.train.subset([]))
        learn_task(
            learner, nothing, stream.classes, tests, stream.tasks[index + 1 :],
            weight="gcv" if name == "ranpac" else "choose", sums=total(parts),
        )  # fmt: skip
        first = parts[0]
        triangle = 0 if first.gram is None else len(first.gram) * (len(first.gram) + 1) // 2
        sent += 8 * (first.sums.numel() + len(first.counts) + triangle)
    seconds = perf_counter() - began
    clients = last(learner, lambda: refresh(learner.run))
    return Side(name, len(stream.tasks), alone, clients, sent, len(stream.tasks), seconds)


def main() -> None:
    """Print both sides; with --record store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--local-steps", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1993)
    parser.add_argument("--image-size", type=int, default=56)
    parser.add_argument("--increments", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS}")
    asked = parser.parse_args()
    backbone = load_backbone("vit-s14", image_size=asked.image_size)
    sides = []
    for increment in asked.increments:
        stream = load_stream("digits", seed=asked.seed, increment=increment)
        setting = Setting(
            stream, backbone, asked.clients, asked.epochs, asked.local_steps, asked.seed
        )
        sides += [averages(setting), *(sums(setting, name) for name in SUMS)]
    print("| tasks | method | one machine | clients | ratio | KB sent | messages | seconds |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for side in sides:
        print(
            f"| {side.tasks} | {side.method} | {100 * side.alone:.1f} | {100 * side.clients:.1f} | "
            f"{side.ratio:.3f} | {side.sent / 1000:.0f} | {side.messages} | {side.seconds:.1f} |"
        )
    if asked.record:
        found = {"machine": machine(), "settings": vars(asked)}
        found["sides"] = [{**asdict(side), "ratio": side.ratio} for side in sides]
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
