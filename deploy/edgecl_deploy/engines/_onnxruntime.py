"""ONNX Runtime on the CPU: it takes empty tensors and any shape, and inputs without a copy."""

from typing import Any

import numpy as np

from edgecl_deploy.engines._types import FLOAT32, Arrays, Capabilities, Graph, Held
from edgecl_deploy.engines.processor import usable_cores
from edgecl_deploy.engines.refused import arrays_of, refusals
from edgecl_deploy.errors import EngineMissingError, one_line

QUIET = 3  # errors only: its warnings would be lines between ours


class OnnxRuntimeSession:
    """One graph in ONNX Runtime."""

    def __init__(self, session: Any, name: str) -> None:
        self._session = session
        self._name = name
        self.inputs = tuple(node.name for node in session.get_inputs())
        self.outputs = tuple(node.name for node in session.get_outputs())

    def pin(self, held: Arrays) -> Held:
        """Hold inputs; they stay where they are, the CPU reads them there."""
        return Held(self, held)

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph."""
        with refusals(arrays_of(self._name)):
            results = self._session.run(None, dict(feeds))
        return dict(zip(self.outputs, results, strict=True))


class OnnxRuntimeEngine:
    """Loads graphs into ONNX Runtime.

    Args:
        threads: Of one run; None for all cores that this process may use.
        small: Read the weights where the file is mapped, which programs and processes share, in
            place of a copy in the order of the processor's instructions; keep no arena. It is
            slower by a tenth or more.
    """

    def __init__(self, threads: int | None, *, small: bool = False) -> None:
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
        self._small = small
        self.version = str(onnxruntime.__version__)

    def capabilities(self) -> Capabilities:
        """Return what it takes; smaller weights become float32, which would not be shared."""
        precisions = (FLOAT32,) if self._small else (FLOAT32, "float16", "int8")
        return Capabilities(empty_tensors=True, dynamic_shapes=True, precisions=precisions)

    def load(self, graph: Graph) -> OnnxRuntimeSession:
        """Load a graph; int8 weights become float."""
        options = self._library.SessionOptions()
        options.log_severity_level = QUIET
        options.intra_op_num_threads = self._threads or usable_cores()
        # Left alone it multiplies by int8 weights block by block, which is slower than float32.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        if self._small:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
        with refusals(
            f"{graph.path.name} must load in onnxruntime {self.version}",
            "Install the onnxruntime that the bundle was verified with, or export it again.",
        ):
            session = self._library.InferenceSession(
                str(graph.path), options, providers=["CPUExecutionProvider"]
            )
        return OnnxRuntimeSession(session, graph.path.name)
