"""Inspection: what a bundle, packs, a release, a text program or a run holds."""

from math import prod
from pathlib import Path
from typing import Any

from edgecl_deploy.files import (
    BUNDLE_FILE,
    INDEX_FILE,
    RELEASE_FILE,
    read_bundle,
    read_packs,
    read_release,
)
from edgecl_deploy.format import Pack, parse_pack
from edgecl_deploy.text import TEXT_FILE, read_text
from edgecl_export.errors import ExportError


def inspect(path: str | Path) -> dict[str, Any]:
    """Describe a folder that edgecl wrote, whichever kind it is.

    Raises:
        ExportError: if it is none of them.
    """
    readers = {
        BUNDLE_FILE: inspect_bundle,
        RELEASE_FILE: inspect_release,
        INDEX_FILE: inspect_packs,
        TEXT_FILE: inspect_text,
        "run.json": inspect_run,
    }
    path = Path(path)
    for name, reader in readers.items():
        if (path / name).is_file():
            return {"path": str(path), **reader(path)}
    raise ExportError(
        f"PATH must hold one of {', '.join(readers)}, found none in {path}. "
        "Give the folder that `edgecl train` or `edgecl export` wrote."
    )


def inspect_bundle(path: Path) -> dict[str, Any]:
    """Describe a bundle."""
    files = read_bundle(path)
    bundle = files.bundle
    return {
        "kind": "bundle",
        "digest": files.digest,
        "backbone": bundle.backbone.to_json(),
        "preprocessing": bundle.preprocessing.to_json(),
        "weights_bytes": bundle.weights.size,
        "graph_bytes": sum(ref.size for ref in bundle.files() if ref.file.endswith(".onnx")),
        "variants": {
            name: {"weights_bytes": each.weights.size, "group": each.group, "scheme": each.scheme}
            for name, each in bundle.variants.items()
        },
        "programs": {
            name: {
                "interface": program.interface,
                "passes": len(program.passes),
                "matcher": program.matcher,
                "precisions": list(bundle.precisions(name)),
                "inputs": {key: " ".join(spec.axes) for key, spec in program.learned.items()},
                "slots": list(program.slots),
            }
            for name, program in bundle.programs.items()
        },
    }


def inspect_pack(pack: Pack) -> dict[str, Any]:
    """Describe one pack."""
    return {
        "task": pack.task,
        "name": pack.name,
        "classes": list(pack.classes),
        "blob_bytes": sum(pack.blobs.values()),
        "manifest_bytes": len(pack.to_bytes()),
        "tensors": {
            name: f"{tensor.dtype} {list(tensor.shape)}"
            + (f" of {tensor.generator.name}" if tensor.generator else "")
            + (f" in {tensor.bits.nbytes} bytes of bits" if tensor.bits else "")
            for name, tensor in pack.tensors.items()
        },
    }


def packs_bytes(path: Path) -> dict[str, Any]:
    """Return what the packs of a folder weigh, in the order of their tasks.

    Returns:
        `bytes`, of what no pack before it holds; and `in_bits`, where packs hold tensors in bits:
        for each tensor its bytes, those of where it started, once, and what float16 would take.
    """
    manifests, _ = read_packs(path)
    seen: set[str] = set()
    sizes, tensors = [], dict[str, dict[str, list[int]]]()
    for data in manifests.values():
        pack = parse_pack(data)
        fresh = {blob: size for blob, size in pack.blobs.items() if blob not in seen}
        sizes.append(len(data) + sum(fresh.values()))
        for name, each in pack.tensors.items():
            if each.bits is None:
                continue
            own = tensors.setdefault(name, {"bits": [], "start": [], "float16": []})
            own["bits"].append(each.bits.nbytes)
            own["start"].append(sum(fresh.get(blob, 0) for blob in {*each.bits.blobs}))
            own["float16"].append(2 * prod(each.shape))
        seen |= fresh.keys()
    return {"bytes": sizes} | ({"in_bits": tensors} if tensors else {})


def inspect_packs(path: Path) -> dict[str, Any]:
    """Describe a packs folder."""
    manifests, _ = read_packs(path)
    packs = {name: parse_pack(data) for name, data in manifests.items()}
    first = next(iter(packs.values()))
    return {
        "kind": "packs",
        "program": first.program,
        "backbone": first.backbone,
        "packs": {name: inspect_pack(pack) for name, pack in packs.items()},
    }


def inspect_release(path: Path) -> dict[str, Any]:
    """Describe a release."""
    files = read_release(path)
    release = files.release
    licences = {} if release.canaries is None else release.canaries.variants
    return {
        "kind": "release",
        "digest": files.digest,
        "number": release.number,
        "parent": release.parent,
        "program": release.program,
        "backbone": release.backbone,
        "bundle": release.bundle,
        "classes": sum(len(pack.classes) for pack in files.packs),
        "canary_bytes": sum(release.blobs.values()),
        "licences": {name: each.to_json() for name, each in licences.items()},
        **({} if release.unknown is None else {"unknown": release.unknown.to_json()}),
        "packs": {
            name: inspect_pack(pack) for name, pack in zip(release.packs, files.packs, strict=True)
        },
    }


def inspect_text(path: Path) -> dict[str, Any]:
    """Describe a text program."""
    program, digest = read_text(path)
    return {
        "kind": "text",
        "digest": digest,
        "clip": program.clip,
        "backbone": program.backbone,
        "width": program.width,
        "context_length": program.context_length,
        "templates": list(program.templates),
        "bytes": {ref.file: ref.size for ref in program.files()},
    }


def inspect_run(path: Path) -> dict[str, Any]:
    """Describe a run folder; only this needs the learner."""
    from edgecl.learning.runs import Run

    run = Run.open(path)
    return {
        "kind": "run",
        "method": run.header["method"],
        "backbone": run.header["spec"]["digest"],
        "interface": run.header["interface"],
        "seed": run.header["seed"],
        "tasks": {
            record.name: {
                "classes": list(record.classes),
                "train_images": record.train_images,
                "seconds": record.seconds,
            }
            for record in run.records()
        },
    }
