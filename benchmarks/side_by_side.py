"""Seconds and memory of learning, next to another implementation on the same images and backbone.

Both sides learn the same files in the same order on the same weights, for as many epochs with the
same batches, the published augmentation (fresh views) and one thread, each run in a process of its
own, in turns. The other side is a command that is given the path of a job, and prints on its last
line `{"learn": [[wall, cpu], ...], "evaluate": [...], "accuracy": [...]}`: seconds of each task,
and the accuracy in percent over all classes so far. `side_by_side_pilot.py` is one:

    python benchmarks/side_by_side.py --other "PYTHON benchmarks/side_by_side_pilot.py LAMDA-PILOT"

A job is JSON: `method`, `images` (a folder of train/CLASS and test/CLASS), `classes` in their
order, `increment`, `weights` (safetensors under timm's names) and `vit` (its sizes), `epochs`,
`batch`, `seed`, and sizes: `ranpac_size`, `rank` of adapters, `components` and `rows` of a prompt.

A machine that others use makes seconds on the wall worth little: the ratio is of processor time,
of learning and evaluation without the start of the process, the median over the rounds' ratios.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import cpu
from safetensors.torch import save_file

from edgecl import session
from edgecl.backbones import Backbone, ViT, load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.reading.reader import Reading
from edgecl.streams import Stream, load_stream

RESULTS = Path(__file__).parent / "results"
METHODS = ("simplecil", "ranpac", "l2p", "coda-prompt", "ease")
NOTES = "## "  # where what people wrote on the page begins
VARIES = {"rows", "runs", "load"}  # of records that can be joined
KNOWN = "features known"  # the second run on the same images: a contestant of its own
ADVICE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    """Measure, print and record; or with --job be our side once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", help="command of the other side; the job's path is appended")
    parser.add_argument("--name", default="LAMDA-PILOT")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--backbone", default="vit-s14")
    parser.add_argument("--side", type=int, default=112, help="pixels")
    parser.add_argument("--stream", default="digits")
    parser.add_argument("--train", type=int, default=80, help="images of all tasks")
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, default=1, help="processes at a time")
    parser.add_argument("--seed", type=int, default=1993)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--job", type=Path, help="run our side of this job and print its seconds")
    parser.add_argument("--cache", type=Path, help="where our side of a job stores features")
    parser.add_argument("--join", type=Path, nargs="*", help="folders of former records")
    arguments = parser.parse_args()
    if arguments.join:
        join(arguments.join, arguments.out)
        return
    if arguments.job:
        print(json.dumps(ours(json.loads(arguments.job.read_text()), arguments.cache)))
        return
    if not arguments.other:
        parser.error("--other COMMAND is needed; benchmarks/README.md has an example")
    measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Run each method on both sides in turn, and write the results after each pair."""
    stream = load_stream(
        arguments.stream, seed=arguments.seed, limit_train=arguments.train,
        limit_test=arguments.test,
    )  # fmt: skip
    backbone = load_backbone(arguments.backbone, image_size=arguments.side)
    me = [sys.executable, "-W", "ignore", __file__, "--job"]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_images(stream, place / "images")
        job = job_of(stream, backbone, arguments, place)

        def cell(turn: int, method: str, side: str) -> list[dict[str, Any]]:
            path = place / f"{method}-{turn}-{side}.json"
            path.write_text(json.dumps(job | {"method": method}))
            if side == "other":
                return [run([*shlex.split(arguments.other), str(path)])]
            mine = [*me, str(path), "--cache", str(place / f"features-{method}-{turn}")]
            return [run(mine) for _ in names_of(method)]

        failures = []
        with ThreadPoolExecutor(arguments.together) as pool:
            running = {
                pool.submit(cell, turn, method, side): (method, side)
                for turn in range(arguments.rounds)
                for method in arguments.methods
                for side in (("ours", "other"), ("other", "ours"))[turn % 2]
            }
            for done in as_completed(running):
                method, side = running[done]
                if failed := done.exception():
                    failures.append(f"{method}, {side}: {failed}")
                    continue
                sides = found.setdefault(method, {})
                names = names_of(method) if side == "ours" else (side,)
                for name, result in zip(names, done.result(), strict=True):
                    sides.setdefault(name, []).append(result)
                store(header(arguments, stream, backbone), found, arguments.out)
                print(f"{method}: {side}", file=sys.stderr, flush=True)
    if failures:
        sys.exit("\n".join(failures))


def names_of(method: str) -> tuple[str, ...]:
    """Return what our side is measured as: once, and where features are stored once more."""
    return ("ours", KNOWN) if method == "simplecil" else ("ours",)


def join(folders: Sequence[Path], out: Path) -> None:
    """Write one record of several that are of the same setting."""
    records = [json.loads((folder / "pilot.json").read_text()) for folder in folders]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        changed = {key for key in record.keys() - VARIES if record[key] != records[0][key]}
        if changed:
            sys.exit(f"--join needs records of one setting, {sorted(changed)} differ")
        for method, sides in record["runs"].items():
            for name, runs in sides.items():
                found.setdefault(method, {}).setdefault(name, []).extend(runs)
    ordered = {method: found[method] for method in METHODS if method in found}
    loads = max(record["load"] for record in records)
    store({**records[0], "load": loads}, ordered, out)


def store(
    header: dict[str, Any], found: dict[str, dict[str, list[dict[str, Any]]]], out: Path
) -> None:
    """Write the record and its table."""
    record = {**header, "rows": rows_of(found), "runs": found}
    out.mkdir(parents=True, exist_ok=True)
    (out / "pilot.json").write_text(json.dumps(record, indent=1) + "\n")
    path = out / "pilot.md"
    before = path.read_text() if path.exists() else ""
    path.write_text(page(record, before[before.index(NOTES) :] if NOTES in before else ""))


def write_images(stream: Stream, folder: Path) -> None:
    """Write a stream as PNG files, a folder for each part and class."""
    for task in stream.tasks:
        for part, images in (("train", task.train), ("test", task.test)):
            for index, label in enumerate(images.labels):
                place = folder / part / stream.classes[label]
                place.mkdir(parents=True, exist_ok=True)
                images.image(index).convert("RGB").save(place / f"{index:05d}.png")


def job_of(
    stream: Stream, backbone: Backbone, arguments: argparse.Namespace, place: Path
) -> dict[str, Any]:
    """Return what both sides are told."""
    model = backbone.model
    assert isinstance(model, ViT)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, place / "weights.safetensors")
    config = model.config
    return {
        "images": str(place / "images"),
        "classes": [name for task in stream.tasks for name in task.classes],
        "increment": len(stream.tasks[0].classes),
        "weights": str(place / "weights.safetensors"),
        "backbone": arguments.backbone,
        "vit": {
            "size": config.image_size, "patch": config.patch, "width": config.width,
            "depth": config.depth, "heads": config.heads,
        },
        "epochs": arguments.epochs,
        "batch": arguments.batch,
        "seed": arguments.seed,
        "ranpac_size": 2000, "rank": 64, "components": 10, "rows": 8,
    }  # fmt: skip


def run(command: list[str]) -> dict[str, Any]:
    """Run a side once; add the processor time and the peak memory of its process.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        environment = {**os.environ, **ADVICE}
        child = subprocess.Popen(command, stdout=out, env=environment, start_new_session=True)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        out.seek(0)
        lines = out.read().decode().strip().splitlines()
    if child.returncode:
        raise RuntimeError(f"{shlex.join(command)} ended with {child.returncode}")
    return json.loads(lines[-1]) | {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def ours(job: dict[str, Any], cache: Path | None) -> dict[str, Any]:
    """Learn a job with edgecl; the report and the run folder count as learning."""
    method = job["method"]
    backbone = load_backbone(
        job["backbone"], image_size=job["vit"]["size"],
        pixels="coda" if method == "coda-prompt" else "pilot",
    )  # fmt: skip
    found: dict[str, Any] = {"learn": [], "evaluate": [], "accuracy": []}
    evaluate, learn_task = session.evaluate, session.learn_task

    def evaluated(*given: Any, **named: Any) -> Any:
        answer = timed(found["evaluate"], evaluate, *given, **named)
        right = sum(a * n for a, n in zip(answer.accuracy, answer.images, strict=True))
        found["accuracy"].append(round(100 * right / sum(answer.images), 2))
        return answer

    def learned(*given: Any, **named: Any) -> Any:
        record = timed(found["learn"], learn_task, *given, **named)
        found["learn"][-1] = less(found["learn"][-1], found["evaluate"][-1])
        return record

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "order.json").write_text(json.dumps(job["classes"]))
        stream = load_stream(
            "folder", root=job["images"], increment=job["increment"], seed=job["seed"],
            class_order=str(place / "order.json"),
        )  # fmt: skip
        learner = session.new_learner(
            place / "run", method, backbone, stream, seed=job["seed"], config=settings(job),
            compute=session.choose_compute("cpu"), reading=Reading(workers=1),
            cache=FeatureCache(cache or place / "features", backbone.digest),
            augment="paper", views="fresh",
        )  # fmt: skip
        whole: list[list[float]] = []
        with patch.object(session, "evaluate", evaluated), \
                patch.object(session, "learn_task", learned):  # fmt: skip
            timed(whole, session.learn_stream, learner, stream)
        for part in (*found["learn"], *found["evaluate"]):
            whole[0] = less(whole[0], part)
    found["report"] = whole[0]
    return found


def timed(into: list[list[float]], call: Any, *given: Any, **named: Any) -> Any:
    """Call, and note its seconds on the wall and of the processor."""
    began = time.perf_counter(), time.process_time()
    result = call(*given, **named)
    into.append([time.perf_counter() - began[0], time.process_time() - began[1]])
    return result


def less(one: list[float], other: list[float]) -> list[float]:
    """Subtract a part of what was measured."""
    return [whole - part for whole, part in zip(one, other, strict=True)]


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """Return the method's configuration, with the job's sizes."""
    own = {
        "simplecil": {},
        "ranpac": {"size": job["ranpac_size"], "rank": job["rank"]},
        "coda-prompt": {"components": job["components"], "rows": job["rows"]},
        "ease": {"rank": job["rank"]},
    }.get(job["method"], {})
    if job["method"] == "simplecil":
        return {}
    return own | {"schedule": {"epochs": job["epochs"], "batch_size": job["batch"]}}


def seconds(result: dict[str, Any], kind: str, clock: int = 1) -> float:
    """Return the seconds of a run's tasks; the report that only our side writes is learning."""
    more = result.get("report", [0, 0])[clock] if kind == "learn" else 0
    return sum(task[clock] for task in result[kind]) + more


def rows_of(found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return the medians over rounds, a row for each method and way of ours."""
    rows = []
    for method, sides in found.items():
        for name in sides:
            if name == "other" or "other" not in sides:
                continue
            pairs = list(zip(sides[name], sides["other"], strict=False))
            row: dict[str, Any] = {"method": method, "ours": name, "rounds": len(pairs)}
            for at, side in enumerate(("ours", "other")):
                runs = [pair[at] for pair in pairs]
                tasks = len(runs[0]["learn"])
                row[side + "_figures"] = {
                    "learn": median(seconds(run, "learn") / tasks for run in runs),
                    "evaluate": median(seconds(run, "evaluate") / tasks for run in runs),
                    "cpu": median(run["cpu"] for run in runs),
                    "wall": median(run["wall"] for run in runs),
                    "peak_mb": round(median(run["peak_mb"] for run in runs)),
                    "accuracy": median(run["accuracy"][-1] for run in runs),
                }
            for ratio, of in RATIOS.items():
                row[ratio] = median(of(theirs) / of(mine) for mine, theirs in pairs)
            rows.append(row)
    return rows


def both(result: dict[str, Any]) -> float:
    """Return the processor seconds of learning and evaluation."""
    return seconds(result, "learn") + seconds(result, "evaluate")


RATIOS = {
    "ratio": both,
    "ratio_learn": lambda one: seconds(one, "learn"),
    "ratio_evaluate": lambda one: seconds(one, "evaluate"),
    "ratio_process": lambda one: one["cpu"],
    "ratio_wall": lambda one: seconds(one, "learn", 0) + seconds(one, "evaluate", 0),
    "ratio_memory": lambda one: one["peak_mb"],
}


def median(values: Any) -> float:
    """Return a median that is short enough to read."""
    return round(float(statistics.median(values)), 3)


def header(arguments: argparse.Namespace, stream: Stream, backbone: Backbone) -> dict[str, Any]:
    """Return what the figures are of."""
    return {
        "what": "processor seconds a task (learn, evaluate) and of the process (cpu), seconds on "
        "the wall and peak memory of the process; medians of rounds, ratios are medians of the "
        "rounds' ratios: above 1 ours is faster or smaller",
        "other": arguments.name,
        "backbone": arguments.backbone,
        "side": backbone.preprocess.size,
        "stream": arguments.stream,
        "train": [len(task.train) for task in stream.tasks],
        "test": [len(task.test) for task in stream.tasks],
        "epochs": arguments.epochs,
        "batch": arguments.batch,
        "seed": arguments.seed,
        "precision": "bfloat16" if session.choose_compute("cpu").bfloat16 else "float32",
        "together": arguments.together,
        "load": os.getloadavg()[1],
        "machine": f"{cpu()}, 1 thread, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
    }


def page(result: dict[str, Any], notes: str) -> str:
    """Lay out the record in Markdown; `notes` is what people wrote below the table."""
    counts = " and ".join(f"{sum(result[part])} {part}" for part in ("train", "test"))
    return "\n".join([
        f"# Side by side with {result['other']}",
        "",
        f"`python benchmarks/side_by_side.py --other COMMAND`: `{result['backbone']}` at "
        f"{result['side']} px with the same weights on both sides, `{result['stream']}` in "
        f"{len(result['train'])} tasks ({counts} images), {result['epochs']} epochs with batches "
        f"of {result['batch']}, fresh views as the public code has them, {result['precision']}, "
        f"{result['machine']}. Each run is a process of its own, both sides in turns, "
        f"{result['together']} at a time. The machine was shared (load {result['load']:.0f}), so "
        "seconds are of the processor, without the start of the process. A cell is the median of "
        "the rounds, `times faster` that of their ratios.",
        "",
        *table(result),
        "",
        f"`{KNOWN}`: the second run on the same images, whose features are in the cache.",
        "",
        notes,
    ])


def table(result: dict[str, Any]) -> list[str]:
    """Lay out the rows in Markdown."""
    other = result["other"].removeprefix("LAMDA-")
    lines = [
        f"| method | rounds | s a task, learning: ours | {other} | evaluation: ours | {other} | "
        f"times faster | learning | evaluation | peak MB: ours | {other} | A_last: ours | "
        f"{other} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        mine, theirs = row["ours_figures"], row["other_figures"]
        name = row["method"] + ("" if row["ours"] == "ours" else f", {row['ours']}")
        figures = [
            f"{mine['learn']:.2f}", f"{theirs['learn']:.2f}",
            f"{mine['evaluate']:.2f}", f"{theirs['evaluate']:.2f}",
            f"**{row['ratio']:.2f}**", f"{row['ratio_learn']:.2f}", f"{row['ratio_evaluate']:.2f}",
            f"{mine['peak_mb']:.0f}", f"{theirs['peak_mb']:.0f}",
            f"{mine['accuracy']:.1f}", f"{theirs['accuracy']:.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join([name, str(row['rounds']), *figures])} |")
    return lines


if __name__ == "__main__":
    main()
