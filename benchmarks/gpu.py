"""NVIDIA's engines on a machine with a GPU: built, compared with PyTorch, measured.

`prepare` learns three small runs and stores a bundle, their releases, images and the scores of
PyTorch; it needs the learner, and does nothing when that is there. `run` needs what a device needs:
every engine and program has a process of its own with a limit of time, so that one that hangs or
takes all memory is a row that says so. Both together take at most ten minutes.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgecl_deploy import Classifier, __version__
from edgecl_deploy.engines import installed
from edgecl_deploy.engines._cudart import Cuda
from edgecl_deploy.errors import DeployError, one_line

ENGINES = ("onnxruntime", "cuda", "tensorrt-ep", "tensorrt")
PROGRAMS = ("simplecil", "l2p", "aper-adapter")
BATCHES = (1, 8, 32)
TASKS = 3
IMAGES = 33  # one more than a run of TensorRT takes
ROUNDS = 30
EQUAL = 1e-3  # relative to the largest score: what canaries allow
LIMIT = 540.0  # seconds of all rows
READY = "ready.json"


def prepare(folder: Path, backbone: str, size: int, depth: int | None = None) -> None:
    """Make what `run` needs, unless it is there.

    Args:
        folder: To make.
        backbone: Its name.
        size: Pixels of the images' sides.
        depth: Blocks, of a random backbone alone; None for all.
    """
    wanted = {"backbone": backbone, "size": size, "depth": depth, "version": __version__}
    ready = folder / READY
    if ready.exists() and json.loads(ready.read_text()) == wanted:
        return
    from edgecl.backbones import load_backbone
    from edgecl.program.learned import join
    from edgecl.session import learn_stream, new_learner
    from edgecl.streams import load_stream
    from edgecl_export import export_bundle, export_packs, export_release

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seed = 0 if backbone.startswith("vit-tiny") else None  # it has no weights of its own
    loaded = load_backbone(backbone, image_size=size, depth=depth, random_seed=seed)
    stream = load_stream("digits", limit_train=60, limit_test=IMAGES, tasks=TASKS)
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    expected = {"images": noise}
    for name in PROGRAMS:
        config = {} if name == "simplecil" else {"schedule": {"epochs": 1}}
        with tempfile.TemporaryDirectory() as scratch:
            learner = new_learner(Path(scratch) / "run", name, loaded, stream, config=config)
            learn_stream(learner, stream)
            export_bundle(learner, folder / "bundle")
            export_packs(learner.run, Path(scratch) / "packs", dtype="float32")
            for count in range(1, TASKS + 1):
                release = folder / f"{name}-{count}"
                export_release(Path(scratch) / "packs", release, folder / "bundle", tasks=count)
                learned = join(learner.declared, learner.run.parts()[:count])
                expected[f"{name}-{count}"] = learner.predict(noise, learned).scores.numpy()
    np.savez(folder / "expected.npz", **expected)
    ready.write_text(json.dumps(wanted))


def measure(engine: str, program: str, folder: Path) -> dict[str, Any]:
    """Measure one program in one engine."""
    before = gpu_free()
    with tempfile.TemporaryDirectory() as kept, np.load(folder / "expected.npz") as expected:
        images = expected["images"]
        start, device = opened(engine, program, folder, Path(kept))
        row: dict[str, Any] = {"version": device.engine.version, "first_start_s": start}
        row |= compare(device, program, folder, expected)
        row["ms_per_image"] = {n: time_batch(device, images[:n]) for n in BATCHES}
        row["swap_ms"] = time_swaps(device, program, folder)
        after = gpu_free()
        if before is not None and after is not None:
            row["gpu_mb"] = round((before - after) / 1e6)
        del device
        row["second_start_s"], _ = opened(engine, program, folder, Path(kept))
        row["kept_bytes"] = size_of(Path(kept))
        camera_start, camera = opened(engine, program, folder, Path(kept), batch=1)
        row |= {"camera_start_s": camera_start, "camera_ms": time_batch(camera, images[:1])}
    return row


def opened(
    engine: str, program: str, folder: Path, kept: Path, batch: int | None = None
) -> tuple[float, Classifier]:
    """Open a classifier; return the seconds, too."""
    begin = time.perf_counter()
    device = Classifier.open(
        folder / "bundle", folder / f"{program}-1", engine=engine, batch=batch, cache=kept
    )
    device.scores(black(device))
    return round(time.perf_counter() - begin, 2), device


def compare(device: Classifier, program: str, folder: Path, expected: Any) -> dict[str, Any]:
    """Compare every task count and some batches with PyTorch, and a batch with its images alone."""
    images, error, batch_error, differ = expected["images"], 0.0, 0.0, 0
    for count in range(1, TASKS + 1):
        device.swap(folder / f"{program}-{count}")
        want = expected[f"{program}-{count}"]
        scale = float(np.abs(want).max())
        together = device.scores(images).scores
        alone = np.concatenate([device.scores(images[i : i + 1]).scores for i in range(7)])
        error = max(error, float(np.abs(together - want).max()) / scale)
        batch_error = max(batch_error, float(np.abs(together[:7] - alone).max()) / scale)
        lead = want.max(axis=1) - want[np.arange(len(want)), together.argmax(axis=1)]
        differ += int((lead > EQUAL * scale).sum())
    equal = max(error, batch_error) <= EQUAL and not differ
    return {"error": error, "batch_error": batch_error, "labels_differ": differ, "equal": equal}


def time_batch(device: Classifier, images: np.ndarray) -> float:
    """Return milliseconds per image, the median of several rounds."""
    for _ in range(3):
        device.scores(images)
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        device.scores(images)
        times.append(time.perf_counter() - begin)
    return round(1000 * statistics.median(times) / len(images), 4)


def time_swaps(device: Classifier, program: str, folder: Path) -> float:
    """Return milliseconds from a release on the disk to its first answer, the median."""
    image, times = black(device), []
    for turn in range(3 * TASKS):
        begin = time.perf_counter()
        device.swap(folder / f"{program}-{turn % TASKS + 1}")
        device.scores(image)
        times.append(time.perf_counter() - begin)
    return round(1000 * statistics.median(times), 2)


def black(device: Classifier) -> np.ndarray:
    """Return a black image."""
    side = device.preprocessing.size
    return np.zeros((1, side, side, 3), np.uint8)


def gpu_free() -> int | None:
    """Return the free bytes of the GPU, None where nobody can be asked."""
    try:
        return int(Cuda("gpu").call("cudaMemGetInfo"))
    except DeployError:
        return None


def size_of(folder: Path) -> int:
    """Return the bytes of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def gpu_name() -> str:
    """Name the GPU and its driver."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return "no GPU"
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def run_all(folder: Path, engines: tuple[str, ...], limit: float) -> list[dict[str, Any]]:
    """Measure every engine and program, each in a process of its own."""
    end, rows = time.monotonic() + limit, []
    for engine in engines:
        for program in PROGRAMS:
            row: dict[str, Any] = {"engine": engine, "program": program}
            left = end - time.monotonic()
            rows.append(row | (one(engine, program, folder, left) if left > 0 else LATE))
            print(line_of(rows[-1]), flush=True)
    return rows


LATE = {"failed": "no time was left"}


def one(engine: str, program: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Measure one program in one engine, in another process."""
    if not installed(engine):
        return {"failed": "not installed"}
    command = [sys.executable, __file__, "one", engine, program, "--folder", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return LATE
    if done.returncode != 0:
        return {"failed": f"exit code {done.returncode}: {done.stderr.strip()[-500:]}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def line_of(row: dict[str, Any]) -> str:
    """Return a row for people."""
    name = f"{row['engine']:12} {row['program']:13}"
    if "failed" in row:
        return f"{name} {row['failed']}"
    times = "  ".join(f"b{batch} {ms:.2f}" for batch, ms in row["ms_per_image"].items())
    return (
        f"{name} error {row['error']:.1e} {'equal' if row['equal'] else 'NOT EQUAL'}  "
        f"ms/image {times}  camera {row['camera_ms']:.2f}  swap {row['swap_ms']:.1f} ms  "
        f"start {row['first_start_s']:.1f} s, again {row['second_start_s']:.1f} s"
    )


def main() -> None:
    """Prepare, run or do both; exit with 1 unless every NVIDIA engine that ran equals PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("prepare", "run", "all", "one"), default="all", nargs="?")
    parser.add_argument("names", nargs="*", help="of `one`: an engine and a program")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"))
    parser.add_argument("--backbone", default="vit-s14")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    if arguments.part == "one":
        try:
            print(json.dumps(measure(*arguments.names, arguments.folder)))
        except DeployError as error:
            sys.exit(one_line(error))
        return
    if arguments.part in {"prepare", "all"}:
        prepare(arguments.folder, arguments.backbone, arguments.size)
    if arguments.part == "prepare":
        return
    if not any(installed(name) for name in ENGINES[1:]):
        sys.exit("no engine of NVIDIA is installed here: see docs/engines-nvidia.md")
    rows = run_all(arguments.folder, ENGINES, arguments.limit)
    gpu = gpu_name()
    made = json.loads((arguments.folder / READY).read_text())
    result = {"gpu": gpu, "made": made, "rounds": ROUNDS, "rows": rows}
    name = re.sub(r"[^a-z0-9]+", "-", gpu.partition(",")[0].lower()).strip("-")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"gpu_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    theirs = [row for row in rows if row["engine"] in ENGINES[1:] and installed(row["engine"])]
    sys.exit(0 if all(row.get("equal") for row in theirs) else 1)


if __name__ == "__main__":
    main()
