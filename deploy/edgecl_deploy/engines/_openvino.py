"""OpenVINO on the CPU: it compiles a graph for this processor, and takes every shape."""

import functools
import importlib
import io
import sys
import threading
from typing import Any

import numpy as np

from edgecl_deploy.engines._types import Arrays, Capabilities, Graph, Held
from edgecl_deploy.engines.artefacts import Artefacts, Key, key_of
from edgecl_deploy.engines.processor import usable_cores
from edgecl_deploy.engines.refused import arrays_of, refusals
from edgecl_deploy.errors import EngineMissingError, one_line

_DEVICE = "CPU"
_IMAGE = "image"
_TELEMETRY = "openvino_telemetry"
_F32, _BF16 = "f32", "bf16"
_HINTS = {  # of what is float in a graph
    "float32": _F32,
    "bfloat16": _BF16,
    "int8": _F32,
    "int8-bfloat16": _BF16,
}
_REINSTALL = "Install the openvino that the bundle was verified with, or use another engine."


def quiet_import() -> Any:
    """Import openvino without its telemetry.

    By itself the import makes an identifier in the home folder and sends an event
    (docs/privacy.md); without that package it uses a stub of its own. An application that imported
    openvino before has decided for itself.

    Raises:
        EngineMissingError: It is not installed.
    """
    silent = "openvino" not in sys.modules and _TELEMETRY not in sys.modules
    if silent:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # the import of it fails
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineMissingError(
            "engine='openvino' needs the package openvino",
            one_line(error),
            "Install it with: pip install 'edgecl-deploy[openvino]'",
        ) from error
    finally:
        if silent:
            del sys.modules[_TELEMETRY]


@functools.cache
def core() -> Any:
    """Return the process's one Core, which is never freed.

    Its CPU plugin gives the thread that made it a stack for signals, and unmaps this memory when
    the last of it goes, in whatever thread: the next signal would end the process.
    """
    return quiet_import().Core()


class OpenVinoSession:
    """One compiled graph."""

    def __init__(self, compiled: Any, name: str) -> None:
        self._compiled = compiled
        self._name = name
        self._idle: list[Any] = []  # requests; a request runs one call at a time
        self._lock = threading.Lock()
        self.inputs = tuple(node.get_node().get_friendly_name() for node in compiled.inputs)
        # It drops Identity nodes: a tensor then has the names of its input and of its output.
        self._places = {
            name: place for place, node in enumerate(compiled.outputs) for name in node.names
        }
        self.outputs = tuple(self._places)

    def pin(self, held: Arrays) -> Held:
        """Hold inputs in tensors: an array that is read-only would be copied in every call."""
        tensor = quiet_import().Tensor
        return Held(self, {name: tensor(array) for name, array in held.items()})

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Run the graph."""
        with self._lock:
            request = self._idle.pop() if self._idle else None
        with refusals(arrays_of(self._name)):
            request = request or self._compiled.create_infer_request()
            found = request.infer(dict(feeds), share_inputs=True, share_outputs=False)
            results = {name: found[place] for name, place in self._places.items()}
        with self._lock:
            self._idle.append(request)
        return results


class OpenVinoEngine:
    """Compiles graphs with OpenVINO."""

    def __init__(self, threads: int | None, artefacts: Artefacts | None = None) -> None:
        self._core = core()
        self._threads = threads or usable_cores()
        self._artefacts = artefacts
        self.version = str(quiet_import().get_version())
        self._hardware = str(self._core.get_property(_DEVICE, "FULL_DEVICE_NAME"))
        self._can = sorted(self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"))

    def capabilities(self) -> Capabilities:
        """Return what it takes; bfloat16 only where the processor multiplies it."""
        precisions = [name for name, hint in _HINTS.items() if hint == _F32 or "BF16" in self._can]
        return Capabilities(
            empty_tensors=True,
            dynamic_shapes=True,
            precisions=tuple(sorted(precisions)),
            compiles=True,
        )

    def load(self, graph: Graph) -> OpenVinoSession:
        """Compile a graph, or take what an earlier process compiled from it."""
        settings = {
            # Left alone it takes bfloat16 where the processor has it, and canaries fail.
            "INFERENCE_PRECISION_HINT": _HINTS[graph.precision],
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": graph.group,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self._threads,
            "ENABLE_CPU_PINNING": False,  # it disobeys CPU sets
        }
        key = self._key(graph)
        kept = None if key is None or self._artefacts is None else self._artefacts.get(key)
        with refusals(f"{graph.path.name} must load in openvino {self.version}", _REINSTALL):
            compiled = None if kept is None else self._import(kept, settings)
            if compiled is None:
                compiled = self._core.compile_model(self._read(graph), _DEVICE, settings)
                if key is not None and self._artefacts is not None:
                    stream = io.BytesIO()
                    compiled.export_model(stream)
                    self._artefacts.put(key, stream.getvalue())
        return OpenVinoSession(compiled, graph.path.name)

    def _read(self, graph: Graph) -> Any:
        model = self._core.read_model(str(graph.path))
        if graph.batch is not None:
            shapes = {node.any_name: node.partial_shape for node in model.inputs}
            shapes[_IMAGE][0] = graph.batch
            model.reshape(shapes)
        return model

    def _import(self, content: bytes, settings: dict[str, Any]) -> Any | None:
        """Load what was compiled before; None if this library refuses it."""
        try:
            return self._core.import_model(io.BytesIO(content), _DEVICE, settings)
        except Exception:  # it is compiled again, and replaced
            return None

    def _key(self, graph: Graph) -> Key | None:
        hardware = f"{self._hardware} ({' '.join(self._can)})"
        return key_of("openvino", self.version, hardware, graph, threads=self._threads)
