"""The interface that every engine has."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

FLOAT32 = "float32"  # the precision that every bundle and every engine has
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Capabilities:
    """What an engine takes."""

    empty_tensors: bool  # an axis may have size 0: needed for slots="dynamic"
    dynamic_shapes: bool  # sizes may change from call to call: needed for form="fused"
    precisions: tuple[str, ...] = (FLOAT32,)
    device: str = "cpu"
    compiles: bool = False  # a fixed number of images is faster, and what it compiles is kept
    batch: tuple[int, int | None] = (0, None)  # images of one run: at least, at most


@dataclass(frozen=True)
class Graph:
    """A graph of a bundle, and how it shall run."""

    path: Path  # the `.onnx` file; its weights are in the same folder
    digest: str = ""  # of the graph and its weights; empty: nothing compiled from it is kept
    precision: str = FLOAT32
    group: int = 0  # activations that share one scale in int8; 0: activations stay float
    batch: int | None = None  # images of every run; None: any number
    backbone: bool = True  # whether the backbone is in it; the others are small, on feature rows


class Pinned(Protocol):
    """A session that holds some of its inputs; many threads may run it at once."""

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            feeds: One C-contiguous array for each of the other inputs.

        Returns:
            One array per output.
        """


@runtime_checkable
class Session(Pinned, Protocol):
    """A loaded graph; many threads may run it at once. It reads arrays and never writes them."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that the graph declares."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs; there may be more than the graph declares."""

    def pin(self, held: Arrays) -> Pinned:
        """Hold inputs that stay the same from call to call, where the engine computes.

        Args:
            held: One C-contiguous array for each of these inputs.
        """


@runtime_checkable
class Engine(Protocol):
    """Loads graphs."""

    @property
    def version(self) -> str:
        """The version of the library that runs the graphs."""

    def capabilities(self) -> Capabilities:
        """Return what it takes."""

    def load(self, graph: Graph) -> Session:
        """Load a graph, and compile it if the engine compiles."""


@dataclass(frozen=True)
class Held:
    """Inputs of a session in the memory of this process."""

    session: Session
    held: Arrays

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph on these inputs and the held ones."""
        return self.session.run({**self.held, **feeds})


class Computes(Protocol):
    """A session that computes on a device with a memory of its own."""

    def run_on(self, held: Mapping[str, Any], feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            held: Inputs that are in that memory.
            feeds: The other inputs.
        """


@dataclass(frozen=True)
class OnDevice:
    """Inputs of a session in the memory of the device that computes."""

    session: Computes
    held: Mapping[str, Any]

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph on these inputs and the held ones."""
        return self.session.run_on(self.held, feeds)
