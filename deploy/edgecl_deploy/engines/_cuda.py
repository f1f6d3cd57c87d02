"""ONNX Runtime on an NVIDIA GPU, through its CUDA provider.

Written to the documentation and checked against a fake; it has not run on a GPU
(docs/engines-nvidia.md).
"""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgecl_deploy.engines._onnxruntime import QUIET, OnnxRuntimeEngine
from edgecl_deploy.engines._types import FLOAT32, Arrays, Capabilities, Graph, OnDevice, Session
from edgecl_deploy.engines.refused import arrays_of, refusals
from edgecl_deploy.errors import EngineError, EngineMissingError, one_line

CUDA = "CUDAExecutionProvider"
# TF32 has mantissas of 10 bits: canaries of float32 would fail.
CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_DEVICE = "cuda"


def gpu_runtime(engine: str, provider: str) -> Any:
    """Import ONNX Runtime, and load the libraries of CUDA that are installed as packages.

    Args:
        engine: The name of the engine that asks.
        provider: What this build of ONNX Runtime must have.

    Raises:
        EngineMissingError: It is not installed, or is the build without it.
    """
    must = f"engine={engine!r} needs an onnxruntime with {provider}"
    install = (
        "Install it with: pip uninstall onnxruntime; pip install 'edgecl-deploy[cuda]' "
        "(on a Jetson see docs/engines-nvidia.md)."
    )
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineMissingError(must, one_line(error), install) from error
    if provider not in onnxruntime.get_available_providers():
        found = f"onnxruntime {onnxruntime.__version__}, which has no such provider"
        raise EngineMissingError(must, found, install)
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
    return onnxruntime


def open_session(library: Any, graph: Graph, providers: list[Any]) -> Any:
    """Load a graph into the first provider, or not at all.

    Args:
        library: The module `onnxruntime`.
        graph: What to load.
        providers: Names and options, the wanted one first.

    Raises:
        EngineError: The graph does not load, or another provider took it.
    """
    options = library.SessionOptions()
    options.log_severity_level = QUIET
    with refusals(
        f"{graph.path.name} must load in onnxruntime {library.__version__} on the GPU",
        "Look at docs/engines-nvidia.md, or use engine='onnxruntime'.",
    ):
        session = library.InferenceSession(
            str(graph.path), options, providers=providers, enable_fallback=0
        )
    wanted, found = providers[0][0], session.get_providers()
    if found[0] != wanted:  # a library that does not load is no error there
        raise EngineError(
            f"{graph.path.name} must load in onnxruntime's {wanted}",
            f"{', '.join(found)}: a library of CUDA, cuDNN or TensorRT did not load",
            "Install those that this onnxruntime was built for (docs/engines-nvidia.md).",
        )
    return session


class DeviceSession:
    """One graph in ONNX Runtime on the GPU."""

    def __init__(self, library: Any, session: Any, name: str) -> None:
        self._library = library
        self._session = session
        self._name = name
        self.inputs = tuple(node.name for node in session.get_inputs())
        self.outputs = tuple(node.name for node in session.get_outputs())

    def pin(self, held: Arrays) -> OnDevice:
        """Copy inputs to the GPU, where they stay until the last one who uses them ends."""
        make = self._library.OrtValue.ortvalue_from_numpy
        with refusals(
            "the learned tensors of a release must have place in the memory of the GPU",
            "Stop what else runs there, or use engine='onnxruntime'.",
        ):
            return OnDevice(self, {name: make(held[name], _DEVICE, 0) for name in held})

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph."""
        return self.run_on({}, feeds)

    def run_on(self, held: Mapping[str, Any], feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            held: Inputs that are on the GPU.
            feeds: The other inputs.
        """
        with refusals(arrays_of(self._name)):
            # A binding serves one call: a second one would write into the outputs of the first.
            binding = self._session.io_binding()
            for name, value in held.items():
                binding.bind_ortvalue_input(name, value)
            for name, array in feeds.items():
                binding.bind_cpu_input(name, array)
            for name in self.outputs:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            results = binding.copy_outputs_to_cpu()
        return dict(zip(self.outputs, results, strict=True))


class CudaEngine:
    """Loads graphs into ONNX Runtime's CUDA provider; the small ones into its CPU provider."""

    def __init__(self, threads: int | None) -> None:
        self._library = gpu_runtime("cuda", CUDA)
        self._small = OnnxRuntimeEngine(threads)
        self.version = str(self._library.__version__)

    def capabilities(self) -> Capabilities:
        """Return what it takes; nobody has tried empty tensors there."""
        return Capabilities(
            empty_tensors=False,
            dynamic_shapes=True,
            precisions=(FLOAT32, "float16"),
            device=_DEVICE,
            batch=(1, None),
        )

    def load(self, graph: Graph) -> Session:
        """Load a graph."""
        if not graph.backbone:
            return self._small.load(graph)
        session = open_session(self._library, graph, [(CUDA, dict(CUDA_OPTIONS))])
        return DeviceSession(self._library, session, graph.path.name)
