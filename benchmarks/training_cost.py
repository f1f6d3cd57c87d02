"""What training costs, against the plain implementation of the same method.

The first tasks of a stream, learned as `edgecl run` learns them, in three ways that give the same
tensors up to rounding:

- `ours`: frozen queries once per image, activations in front of the injection once per task,
  features once per task where the injection rests, weights converted to bfloat16 once per task,
  attention by single operations;
- `no caches`: queries and all activations at every step, weights converted at every use;
- `plain`: the same, and attention by PyTorch's fused kernel.

Seconds are of one whole task: decoding, queries, training, the statistics behind it. A ratio is
the median over rounds in which the three ways take turns. All are taken in processor time, which
on one thread is the time of a machine that does nothing else.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import cpu
from torch.nn import functional as F

from edgecl.backbones import Backbone, blocks, load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning import activations
from edgecl.learning import learner as learner_module
from edgecl.methods import build_method, methods
from edgecl.program.learned import Tensors
from edgecl.session import choose_compute, learn_task, new_learner
from edgecl.streams import Stream, load_stream

WAYS = ("ours", "no caches", "plain")
NO_QUERY = ("aper-", "s-prompts")  # their losses see no query, so no way computes it in training
RESULTS = Path(__file__).parent / "results"


class Clock:
    """Processor time of this process since it was made."""

    def __init__(self) -> None:
        self._began = time.process_time()

    def seconds(self) -> float:
        """Return the seconds so far."""
        return time.process_time() - self._began


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit-s14")
    parser.add_argument("--stream", default="emoji-demo")
    parser.add_argument("--images", type=int, default=120, help="of all tasks' training images")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1993)
    parser.add_argument("--methods", nargs="*", default=None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.backbone)
    stream = load_stream(arguments.stream, seed=arguments.seed, limit_train=arguments.images)
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for turn in range(arguments.rounds):
        for name in arguments.methods or trained_methods(backbone):
            rounds = found.setdefault(name, [])
            rounds.append([{} for _ in range(arguments.tasks)])
            for way in (*WAYS[turn % 3 :], *WAYS[: turn % 3]):
                with tempfile.TemporaryDirectory() as scratch:
                    cells = learn(name, way, backbone, stream, arguments, Path(scratch))
                for task, cell in enumerate(cells):
                    rounds[-1][task][way] = cell
            print(f"round {turn + 1} of {arguments.rounds}: {name}", file=sys.stderr, flush=True)
        result = summary(arguments, backbone, stream, found)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "training_cost.json").write_text(json.dumps(result, indent=1) + "\n")
        (arguments.out / "training_cost.md").write_text(report(result))
    print(json.dumps(result) if arguments.json else report(result))


def summary(
    arguments: argparse.Namespace,
    backbone: Backbone,
    stream: Stream,
    found: dict[str, list[list[dict[str, Any]]]],
) -> dict[str, Any]:
    """Return what is recorded of the rounds so far; found is by method, round, task and way."""
    return {
        "what": "processor seconds of a task, and of an image in one step of its training; "
        "medians of the rounds, ratios are medians of the rounds' ratios",
        "backbone": arguments.backbone,
        "pixels": backbone.preprocess.size,
        "stream": arguments.stream,
        "images": [len(task.train) for task in stream.tasks[: arguments.tasks]],
        "epochs": arguments.epochs,
        "rounds": len(next(iter(found.values()))),
        "seed": arguments.seed,
        "precision": "bfloat16" if choose_compute("cpu").bfloat16 else "float32",
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[1],
        "machine": f"{cpu()}, Python {platform.python_version()}, torch {torch.__version__}",
        "rows": [
            row(name, task, rounds)
            for name, rounds in found.items()
            for task in range(arguments.tasks)
            if rounds[0][task]["ours"]["step_ms"]
        ],
    }


def trained_methods(backbone: Backbone) -> list[str]:
    """Return the methods whose first task is trained by gradient."""
    spec = BackboneSpec.of(backbone)
    known = [name for name, method in methods().items() if not method.needs_text]
    return [name for name in known if build_method(name, spec).is_trained(0)]


def learn(
    name: str,
    way: str,
    backbone: Backbone,
    stream: Stream,
    arguments: argparse.Namespace,
    out: Path,
) -> list[dict[str, float]]:
    """Learn the first tasks; return what each took."""
    learner = new_learner(
        out / "run", name, backbone, stream, seed=arguments.seed,
        config={"schedule": {"epochs": arguments.epochs}}, compute=choose_compute("cpu"),
        cache=FeatureCache(None, backbone.digest),
    )  # fmt: skip
    cells = []
    for task in stream.tasks[: arguments.tasks]:
        with implemented(way, query=not name.startswith(NO_QUERY)) as training:
            clock = Clock()
            learn_task(learner, task, stream.classes)
            seconds = clock.seconds()
        steps = len(task.train) * arguments.epochs
        cells.append({"seconds": seconds, "step_ms": 1000 * sum(training) / steps})
    return cells


@contextmanager
def implemented(way: str, query: bool) -> Iterator[list[float]]:
    """Let tasks train in one of the ways; give the list of the seconds that each trained.

    Args:
        query: the plain implementation computes the frozen query at every step.
    """
    train_task, seconds = learner_module.train_task, []

    def timed(*given: Any) -> Tensors:
        if way != "ours" and query:
            given = (*given[:3], replace(given[3], plain=None), *given[4:])
        clock = Clock()
        part = train_task(*given)
        seconds.append(clock.seconds())
        return part

    with patch.object(learner_module, "train_task", timed):
        if way == "ours":
            yield seconds
            return
        with (
            patch.object(activations, "LIMIT", 0),
            patch.object(activations, "to_bfloat16", lambda backbone: backbone),
            patch.object(
                blocks, "unfused_attention", fused if way == "plain" else blocks.unfused_attention
            ),
        ):
            yield seconds


def fused(q: Any, k: Any, v: Any, bias: Any) -> Any:
    """Attend by PyTorch's own kernel."""
    mask = None if bias is None else bias.expand(q.shape[2], k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def row(name: str, task: int, rounds: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the medians of one method on one task (from 0)."""
    made: dict[str, Any] = {"method": name, "task": task}
    for kind in ("seconds", "step_ms"):
        each = [{way: each[task][way][kind] for way in WAYS} for each in rounds]
        made[kind] = {way: round(statistics.median(one[way] for one in each), 3) for way in WAYS}
        made[f"{kind}_ratio"] = {
            way: round(statistics.median(one[way] / one["ours"] for one in each), 2)
            for way in WAYS[1:]
        }
    return made


def report(result: dict[str, Any]) -> str:
    """Lay out the figures in Markdown."""
    head = [
        "# Training: seconds per task against the plain implementation",
        "",
        f"`python benchmarks/training_cost.py`: `{result['backbone']}` at {result['pixels']} px, "
        f"the first {len(result['images'])} tasks of `{result['stream']}` "
        f"({' and '.join(map(str, result['images']))} images), {result['epochs']} epochs, batches "
        f"as published, {result['precision']}, {result['threads']} thread(s) of {result['machine']}"
        f"; a shared machine (load {result['load']:.1f}), so processor time; medians of "
        f"{result['rounds']} round(s) in which the three ways take turns.",
        "",
        "`plain` computes the frozen query (where the loss or the choice needs one: not in APER "
        "and S-Prompts) and all activations at every step, converts weights at every use and "
        "attends by PyTorch's fused kernel; `no caches` attends as ours does. A task "
        "counts whole, with what is done once (decoding, queries, statistics); a step is of one "
        "image, forward and backward. More epochs move the ratio of a task towards that of a step. "
        "Tasks that train nothing by gradient are left out.",
        "",
        "| method | task | s per task: ours | no caches | plain | plain / ours | ms per image and "
        "step: ours | no caches | plain | plain / ours |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *map(line, result["rows"]), ""])


def line(one: dict[str, Any]) -> str:
    """Return a row of the table."""
    seconds = " | ".join(f"{one['seconds'][way]:.1f}" for way in WAYS)
    steps = " | ".join(f"{one['step_ms'][way]:.1f}" for way in WAYS)
    return (
        f"| {one['method']} | {one['task'] + 1} | {seconds} | {one['seconds_ratio']['plain']:.2f} "
        f"| {steps} | {one['step_ms_ratio']['plain']:.2f} |"
    )


if __name__ == "__main__":
    main()
