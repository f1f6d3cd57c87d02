"""What a program costs over the bare backbone, in ONNX Runtime on this machine.

The bare backbone is timm's own ViT with the same weights, exported by the same exporter with the
same normalisation in front: what a user would run without edgecl. Every round times each graph
once, in turn, so that a drift of the machine's speed meets all of them; the figure is the median
over rounds of the ratio inside a round. The device's runtime uses all cores; one thread is measured
too, because on shared virtual cores two threads wait for each other and the ratio then says as much
about the neighbours as about the programs.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from machine import cpu
from turns import in_turns

from edgecl.backbones import Backbone, load_backbone, prepare_torchvision
from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import build_method
from edgecl_deploy.engines.processor import usable_cores
from edgecl_export.bundle import export_program
from edgecl_export.graphs import trace
from edgecl_export.programs import image_input

if TYPE_CHECKING:
    import onnxruntime

METHODS = ("simplecil", "l2p", "aper-adapter")
LIMITS = {"simplecil": 1.05, "l2p": 2.2, "aper-adapter": 2.2}
BATCHES = (1, 8)
CLASSES = 60
RESULTS = Path("benchmarks/results/program_overhead.json")


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vit-s14")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[usable_cores(), 1],
        help="the device uses all cores; 0 is ONNX Runtime's own choice, which pins threads",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/program_overhead.json")
    )
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.backbone)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle"
        for name in METHODS:
            program = build_method(name, BackboneSpec.of(backbone)).program
            export_program(program, backbone, bundle)
        graphs = {"backbone": Path(scratch) / "bare.onnx"}
        export_bare(backbone, graphs["backbone"])
        graphs |= {name: bundle / f"{name}.fused.onnx" for name in METHODS}
        rows = []
        for threads in arguments.threads:
            runs = {name: session(path, threads) for name, path in graphs.items()}
            for batch in BATCHES:
                measured = measure(runs, backbone, batch, arguments.rounds)
                rows += [{"threads": threads or "own", **row} for row in measured]
    result = {
        "what": "fused program over the bare backbone, median of per-round ratios",
        "backbone": {
            "name": backbone.name,
            "digest": backbone.digest,
            "pixels": backbone.preprocess.size,
        },
        "classes": CLASSES,
        "rounds": arguments.rounds,
        "cores": os.cpu_count(),
        "machine": f"{cpu()}, onnxruntime {importlib.metadata.version('onnxruntime')}",
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(result))
        return
    print(result["machine"])
    print(f"threads {'program':14} {'batch':>5} {'ms':>8} {'ratio':>7} {'limit':>6}")
    for row in rows:
        limit = LIMITS.get(row["program"], "")
        line = "{threads:>7} {program:14} {batch:5} {ms:8.2f} {ratio:7.3f}".format(**row)
        print(line, f"{limit:>6}")


def export_bare(backbone: Backbone, path: Path) -> None:
    """Export timm's ViT with the backbone's weights."""
    prepare_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    config = backbone.model.config
    model = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        num_classes=0,
    )
    model.load_state_dict(backbone.model.state_dict())
    model.eval().requires_grad_(False)
    image = torch.randint(0, 256, (2, config.image_size, config.image_size, 3), dtype=torch.uint8)
    pixels = backbone.preprocess.normalise(image)
    error = (model(pixels) - backbone.model(pixels).cls).abs().max() / model(pixels).abs().max()
    assert error < 1e-5, f"timm's ViT is not the same backbone: relative error {error:.1e}"

    def call(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"cls": model(backbone.preprocess.normalise(inputs["image"]))}

    ir.save(trace(model, call, {"image": image_input(backbone)}, ["cls"]), path)


def session(path: Path, threads: int) -> "onnxruntime.InferenceSession":
    """Open a graph as the device does."""
    import onnxruntime  # after edgecl_deploy, which turns its telemetry off

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(
    run: "onnxruntime.InferenceSession", backbone: Backbone, name: str, batch: int
) -> dict[str, Any]:
    """Make the inputs of a program: random images, and random learned tensors of real sizes."""
    random = np.random.default_rng(0)
    size = backbone.preprocess.size
    made: dict[str, Any] = {
        "image": random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    }
    if name != "backbone":
        program = build_method(name, BackboneSpec.of(backbone)).program
        for key, item in program.declare().items():
            made[key] = random.normal(size=item.shape(CLASSES)).astype(np.float32) * 0.02
    return {item.name: made[item.name] for item in run.get_inputs()}


def measure(
    runs: "dict[str, onnxruntime.InferenceSession]", backbone: Backbone, batch: int, rounds: int
) -> list[dict[str, Any]]:
    """Time all programs in turn."""
    inputs = {name: feeds(run, backbone, name, batch) for name, run in runs.items()}
    calls = {name: partial(run.run, None, inputs[name]) for name, run in runs.items()}
    times = in_turns(calls, rounds, warm_up=5, pause=0.0)
    base = times["backbone"]
    return [
        {
            "program": name,
            "batch": batch,
            "ms": statistics.median(values),
            "ratio": statistics.median(v / b for v, b in zip(values, base, strict=True)),
            "ratio_of_minima": min(values) / min(base),
        }
        for name, values in times.items()
    ]


if __name__ == "__main__":
    main()
