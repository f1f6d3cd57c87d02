"""The interface that every engine has."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Capabilities:
    """The shapes that an engine takes."""

    empty_tensors: bool  # an axis may have size 0: needed for slots="dynamic"
    dynamic_shapes: bool  # sizes may change from call to call: needed for form="fused"


class Session(Protocol):
    """A loaded graph; many threads may run it at once."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that the graph declares."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            feeds: One C-contiguous array per input; they are read, never written.

        Returns:
            One array per output.
        """


class Engine(Protocol):
    """Loads graphs."""

    @property
    def version(self) -> str:
        """The version of the library that runs the graphs."""

    def capabilities(self) -> Capabilities:
        """Return the shapes that it takes."""

    def load(self, path: Path) -> Session:
        """Load a graph; its weights are in the same folder.

        Args:
            path: The `.onnx` file.
        """
