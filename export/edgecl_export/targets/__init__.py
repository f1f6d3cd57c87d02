"""What engines of other makers take of a graph, checked without them.

A target is a data file with the operators, types and opsets that an engine's parser documents. The
check reads a graph as it is in the bundle and names what the engine would refuse; it cannot promise
that the engine takes the rest.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgecl_deploy.files import read_bundle
from edgecl_deploy.format import FileRef, Program
from edgecl_export.errors import VerifyError

GPU = ("float16",)  # precisions next to float32; a weight in int8 has no use there


@dataclass(frozen=True)
class Target:
    """What one engine takes.

    Attributes:
        name: of the target, as commands take it.
        title: for people.
        source: of the operators.
        opset: the oldest and the newest.
        operators: their names and the types of their data.
        restrictions: by operator: which inputs must be constant, absent or below a number, how many
            outputs there may be, which values attributes must have.
    """

    name: str
    title: str
    source: str
    opset: tuple[int, int]
    operators: Mapping[str, frozenset[str]]
    restrictions: Mapping[str, Mapping[str, Any]]


def targets() -> dict[str, Target]:
    """Return the targets by their names."""
    found = {}
    for file in sorted(files(__name__).iterdir(), key=lambda each: each.name):
        if file.name.endswith(".json"):
            data = json.loads(file.read_text())
            operators = {
                name: frozenset(kinds.split()) for name, kinds in data["operators"].items()
            }
            data |= {"operators": operators, "opset": tuple(data["opset"])}
            found[data["name"]] = Target(**data)
    return found


def heavy_graphs(programs: Iterable[Program]) -> Iterator[FileRef]:
    """Yield the graphs that hold the backbone, with fixed slots, in the precisions of a GPU."""
    for program in programs:
        yield program.staged.encode_fixed
        for precision in GPU:
            if precision in program.variants:
                yield program.variant(precision).staged.encode_fixed


def check_bundle(
    bundle: str | Path, names: Sequence[str] = (), programs: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Check the graphs of a bundle that a GPU runs: `encode` with fixed slots.

    Args:
        names: of targets; all of them if there is none.
        programs: whose graphs; those of all programs if there is none.

    Returns:
        For each target, one sentence for each thing that it would refuse, with the graph's name.

    Raises:
        VerifyError: if there is no such target.
    """
    import onnx

    from edgecl_export.targets.graphs import examine

    known = targets()
    for name in names:
        if name not in known:
            raise VerifyError(
                f"A target must be one of {', '.join(known)}, got {name!r}. Name one of them."
            )
    read = read_bundle(bundle)
    chosen = [read.bundle.program(name) for name in programs or read.bundle.programs]
    graphs = {ref.file: ref for ref in heavy_graphs(chosen)}
    read.verify_files(tuple(graphs.values()))
    refused: dict[str, list[str]] = {name: [] for name in names or known}
    for file in graphs:
        graph = examine(onnx.load(str(Path(bundle) / file), load_external_data=False))
        for name, found in refused.items():
            found += [f"{file}: {each}" for each in graph.problems(known[name])]
    return {name: tuple(found) for name, found in refused.items()}
