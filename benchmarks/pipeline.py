"""How many photographs of 12 megapixels a device classifies per second, and with how much memory.

Four paths take the same files in turns, each in a process of its own: one after the other as in
0.1.0 or with the next images prepared in threads, each with the full decode and with `draft2`. The
bundle is vit-s14 with SimpleCIL, which learned six scenes from small photographs of them.

The photographs are made here: smooth noise and edges, a scene per class, JPEG of quality 90. 12 of
them are different; the other files are these with another comment, because each takes seconds to
make. They are kept in a temporary folder for the next run.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecl_deploy import Classifier
from edgecl_deploy.children import answer_of, talking
from edgecl_deploy.contestant import peak_mb, say
from edgecl_deploy.engines.processor import usable_cores
from edgecl_deploy.pipeline import FILES_AHEAD
from edgecl_deploy.sample import encoded, sample_photo

RESULTS = Path("benchmarks/results")
SIZE = (4000, 3000)
SCENES = ("beach", "city", "forest", "harbour", "market", "summit")
VIEWS = 2  # different large photographs of a scene
TRAINING = 6  # small ones of a scene
TURNS = 10
NEEDED = 2.5  # times as many images per second
SAME = 1e-6  # difference of a score between runs of other sizes
PATHS = {  # name: decode, batches prepared ahead
    "0.1.0: one by one, full": ("full", 0),
    "pipeline, full": ("full", FILES_AHEAD),
    "one by one, draft2": ("draft2", 0),
    "pipeline, draft2": ("draft2", FILES_AHEAD),
}
FIRST, *_, LAST = PATHS


def scene(index: int, view: int, width: int, height: int) -> Image.Image:
    """Make a photograph of a scene; those of one scene have more in common than others."""
    base = sample_photo(width, height, seed=index)
    return Image.blend(base, sample_photo(width, height, seed=1000 + 50 * index + view), 0.35)


def make_photos(folder: Path, count: int) -> list[str]:
    """Return the files, of the scenes in turn; make what is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(SCENES):
        for view in range(VIEWS):
            path = folder / f"{name}-{view}.jpg"
            if not path.exists():
                made = encoded(scene(index, view, *SIZE))
                path.with_suffix(".part").write_bytes(made)
                path.with_suffix(".part").rename(path)
    names = []
    for number in range(count):
        name = SCENES[number % len(SCENES)]
        data = (folder / f"{name}-{number // len(SCENES) % VIEWS}.jpg").read_bytes()
        text = f"copy {number}".encode()
        comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
        path = folder / "copies" / f"{number:03}-{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data[:2] + comment + data[2:])
        names.append(str(path))
    return names


def ship(folder: Path, decode: str, images: Path) -> dict[str, str]:
    """Learn the scenes, and return the bundle and the release."""
    import cells

    from edgecl import learn_stream, load_backbone, load_stream, new_learner

    stream = load_stream(str(images), increment=len(SCENES))
    learner = new_learner(folder / "run", "simplecil", load_backbone(decode=decode), stream)
    learn_stream(learner, stream)
    _, bundle, release = cells.ship(learner, folder / "bundle", folder)
    return {"bundle": str(bundle), "release": str(release)}


def contestant(asked: str) -> None:
    """Classify the files of each line; answer with seconds, memory and the scores."""
    wanted = json.loads(asked)
    classifier = Classifier.open(wanted["bundle"], wanted["release"])
    say({"ready": True})
    for line in sys.stdin:
        names = json.loads(line)
        begin = time.perf_counter()
        found = list(classifier.stream(names, top_k=len(SCENES), ahead=wanted["ahead"]))
        seconds = time.perf_counter() - begin
        scores = [dict(each.top) for each in found]
        say({
            "seconds": seconds,
            "mb": peak_mb(),
            "labels": [each.label for each in found],
            "scores": [[each[name] for name in SCENES] for each in scores],
        })


def measure(photos: list[str], shipped: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Let the paths take turns; return what each answered and needed."""
    found: dict[str, Any] = {name: {"seconds": [], "labels": [], "scores": []} for name in PATHS}
    before = os.getloadavg()[0]  # of other work on this machine
    per_turn = -(-len(photos) // TURNS)
    with ExitStack() as stack:
        running = {}
        for name, (decode, ahead) in PATHS.items():
            asked = json.dumps({**shipped[decode], "ahead": ahead})
            running[name] = stack.enter_context(talking("pipeline", asked))
            assert answer_of(running[name]) is not None, name
            answer_of(running[name], json.dumps(photos[:1]))  # the first run is slower
        for start in range(0, len(photos), per_turn):
            some = photos[start : start + per_turn]
            for name, process in running.items():
                turn = answer_of(process, json.dumps(some))
                assert turn is not None, name
                own = found[name]
                own["seconds"].append(turn["seconds"] / len(some))
                own["labels"] += turn["labels"]
                own["scores"] += turn["scores"]
                own["mb"] = turn["mb"]
            print(f"{min(start + per_turn, len(photos))} of {len(photos)} photographs", flush=True)
    return {"load": before, "paths": found}


def compare(found: dict[str, Any], one: str, other: str) -> dict[str, float]:
    """Return how far the answers of two paths differ."""
    scores = [np.array(found[name]["scores"]) for name in (one, other)]
    pairs = list(zip(found[one]["labels"], found[other]["labels"], strict=True))
    return {
        "labels_that_differ": sum(a != b for a, b in pairs),
        "largest_difference_of_a_score": float(np.abs(scores[0] - scores[1]).max()),
    }


def summarise(measured: dict[str, Any], photos: list[str]) -> dict[str, Any]:
    """Return the figures of all paths."""
    found = measured["paths"]
    wanted = [Path(name).stem.partition("-")[2] for name in photos]
    base = found[FIRST]["seconds"]
    rows = {}
    for name, own in found.items():
        pairs = zip(base, own["seconds"], strict=True)
        right = sum(a == b for a, b in zip(own["labels"], wanted, strict=True))
        rows[name] = {
            "images_per_second": 1 / statistics.mean(own["seconds"]),
            "ratio": statistics.median(before / now for before, now in pairs),
            "peak_mb": own["mb"],
            "accuracy": right / len(wanted),
        }
    names = list(PATHS)
    return {
        "what": "photographs of 12 megapixels, classified from files",
        "photos": {
            "files": len(photos),
            "different": len(SCENES) * VIEWS,
            "pixels": list(SIZE),
            "mb": round(sum(Path(name).stat().st_size for name in photos) / 1e6, 1),
        },
        "backbone": "vit-s14",
        "machine": {
            "cpu": cpu(),
            "cores": usable_cores(),
            "load": round(measured["load"], 1),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("onnxruntime", "pillow")},
        },
        "paths": rows,
        "same_decode": {
            decode: compare(found, *(name for name in names if PATHS[name][0] == decode))
            for decode in ("full", "draft2")
        },
        "full_against_draft2": compare(found, FIRST, LAST),
        "turns": TURNS,
        "seconds_per_image": {name: own["seconds"] for name, own in found.items()},
        "needed": {"ratio": NEEDED, "same": SAME},
    }


def cpu() -> str:
    """Name the processor, as the other benchmarks do."""
    import machine

    return machine.cpu()


def page(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    photos, on = result["photos"], result["machine"]
    same, decode = result["same_decode"], result["full_against_draft2"]
    largest = max(each["largest_difference_of_a_score"] for each in same.values())
    lines = [
        "# A folder of photographs",
        "",
        "Made by `python benchmarks/pipeline.py`; do not edit.",
        "",
        f"{photos['files']} JPEG files of {photos['pixels'][0]} x {photos['pixels'][1]} pixels, "
        f"{photos['mb']:.0f} MB, made of {photos['different']} different pictures (smooth noise "
        "and edges; the others differ in a comment). "
        f"{result['backbone']} with SimpleCIL; each path in a process of its own, in "
        f"{result['turns']} turns on the same files. {on['cpu']}, {on['cores']} cores with a load "
        f"of {on['load']} by other work, Python {on['python']}, onnxruntime {on['onnxruntime']}, "
        f"Pillow {on['pillow']}.",
        "",
        "| path | images per second | times 0.1.0, median of turns | peak memory, MB | right |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {row['images_per_second']:.1f} | {row['ratio']:.2f} | "
            f"{row['peak_mb']:.0f} | {100 * row['accuracy']:.1f} % |"
            for name, row in result["paths"].items()
        ),
        "",
        f"With the same decode all labels are the same, and scores within {largest:.1e}. Between "
        f"the full decode and `draft2` {decode['labels_that_differ']} labels differ; scores "
        f"(cosines) by at most {decode['largest_difference_of_a_score']:.1e}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make what is needed, measure, print and record.

    Raises:
        SystemExit: a bound is not met.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="Where the photographs are kept.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.gettempdir()) / "edgecl-photographs"
    photos = make_photos(folder, arguments.photos)
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "scenes"
        for index, name in enumerate(SCENES):
            (small / name).mkdir(parents=True)
            for view in range(TRAINING):
                picture = scene(index, VIEWS + view, 640, 480)
                (small / name / f"{view}.jpg").write_bytes(encoded(picture))
        shipped = {
            decode: ship(Path(scratch) / decode, decode, small) for decode in ("full", "draft2")
        }
        measured = measure(photos, shipped)
    result = summarise(measured, photos)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "pipeline.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "pipeline.md").write_text(page(result))
    print(page(result))
    if result["paths"][LAST]["ratio"] < NEEDED:
        raise SystemExit(f"{LAST} must be {NEEDED} times as fast as {FIRST}")
    for each in result["same_decode"].values():
        if each["labels_that_differ"] or each["largest_difference_of_a_score"] > SAME:
            raise SystemExit(f"the same decode must give the same answers, found {each}")


if __name__ == "__main__":
    contestant(sys.argv[1]) if len(sys.argv) == 2 and sys.argv[1][0] == "{" else main()
