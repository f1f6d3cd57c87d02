"""ONNX Runtime on the CPU: it takes empty tensors and any shape, and inputs without a copy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecl_deploy.cores import usable_cores
from edgecl_deploy.engines._types import Capabilities
from edgecl_deploy.errors import EngineError, EngineMissingError, one_line

_QUIET = 3  # errors only: its warnings would be lines between ours


class OnnxRuntimeSession:
    """One graph in ONNX Runtime."""

    def __init__(self, session: Any, name: str) -> None:
        self._session = session
        self._name = name
        self.inputs = tuple(node.name for node in session.get_inputs())
        self.outputs = tuple(node.name for node in session.get_outputs())

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph.

        Raises:
            EngineError: The library refuses the inputs or fails.
        """
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as error:  # the library has no common root for its exceptions
            raise EngineError(
                f"{self._name} must run on the arrays that its bundle declares",
                one_line(error),
                "Run `edgecl export verify` on the bundle, and report it if that passes.",
            ) from error
        return dict(zip(self.outputs, results, strict=True))


class OnnxRuntimeEngine:
    """Loads graphs into ONNX Runtime."""

    def __init__(self, threads: int | None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineMissingError(
                "engine='onnxruntime' needs the package onnxruntime",
                one_line(error),
                "Install it with: pip install 'edgecl-deploy[cpu]'",
            ) from error
        self._library = onnxruntime
        self._threads = threads
        self.version = str(onnxruntime.__version__)

    def capabilities(self) -> Capabilities:
        """Return the shapes that it takes."""
        return Capabilities(empty_tensors=True, dynamic_shapes=True)

    def load(self, path: Path) -> OnnxRuntimeSession:
        """Load a graph; its weights are in the same folder.

        Args:
            path: The `.onnx` file.

        Raises:
            EngineError: The library does not take the graph.
        """
        options = self._library.SessionOptions()
        options.log_severity_level = _QUIET
        # By itself the library counts the cores of the whole machine and pins its threads to them,
        # which ignores a container's CPU set and slows two-pass programs where cores are virtual
        # (benchmarks/results/program_overhead_own_threads.json).
        options.intra_op_num_threads = self._threads or usable_cores()
        try:
            session = self._library.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library has no common root for its exceptions
            raise EngineError(
                f"{path.name} must load in onnxruntime {self.version}",
                one_line(error),
                "Install the onnxruntime that the bundle was verified with, or export it again.",
            ) from error
        return OnnxRuntimeSession(session, path.name)
