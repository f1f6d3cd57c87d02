"""TensorRT inside ONNX Runtime, through its TensorRT provider.

Written to the documentation and checked against a fake; it has not run on a GPU
(docs/engines-nvidia.md).
"""

import os
import shutil
from pathlib import Path
from typing import Any

from edgecl_deploy.engines._cuda import (
    CUDA,
    CUDA_OPTIONS,
    DeviceSession,
    gpu_runtime,
    open_session,
)
from edgecl_deploy.engines._cudart import Cuda
from edgecl_deploy.engines._onnxruntime import QUIET, OnnxRuntimeEngine
from edgecl_deploy.engines._profiles import COMPILED, images_of, is_dynamic, plan_key, shape_for
from edgecl_deploy.engines._types import Capabilities, Graph, Session
from edgecl_deploy.engines.artefacts import Artefacts
from edgecl_deploy.engines.refused import refusals
from edgecl_deploy.errors import EngineError

TENSORRT = "TensorrtExecutionProvider"
_NAME = "tensorrt-ep"
# The provider has no option against TF32; all of NVIDIA's libraries read this when they load.
_TF32 = ("NVIDIA_TF32_OVERRIDE", "0")


class TensorrtEpEngine:
    """Compiles graphs with TensorRT inside ONNX Runtime; the small ones stay on the CPU."""

    def __init__(self, threads: int | None, artefacts: Artefacts | None) -> None:
        os.environ.setdefault(*_TF32)
        self._library = gpu_runtime(_NAME, TENSORRT)
        self._hardware = Cuda(_NAME).hardware()
        self._small = OnnxRuntimeEngine(threads)
        self._artefacts = artefacts
        self.version = str(self._library.__version__)

    def capabilities(self) -> Capabilities:
        """Return what it takes."""
        return COMPILED

    def load(self, graph: Graph) -> Session:
        """Compile a graph, or take what an earlier process compiled from it."""
        if not graph.backbone:
            return self._small.load(graph)
        options = {**_SETTINGS, **self._profile(graph)}
        key = plan_key(_NAME, self.version, self._hardware, graph)
        if key is None or self._artefacts is None:
            return self._open(graph, options, None)
        kept = self._artefacts.get_folder(key)
        if kept is not None:
            try:
                return self._open(graph, options, kept)
            except EngineError:  # of another TensorRT, which nothing here can ask for its version
                self._artefacts.drop_folder(key)
        fresh = self._artefacts.new_folder()
        try:
            session = self._open(graph, options, fresh)
        except BaseException:
            if fresh is not None:
                shutil.rmtree(fresh, ignore_errors=True)
            raise
        if fresh is not None:
            self._artefacts.put_folder(key, fresh)
        return session

    def _open(self, graph: Graph, options: dict[str, str], folder: Path | None) -> DeviceSession:
        if folder is not None:
            options = {
                **options,
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(folder),
                "trt_engine_cache_prefix": graph.digest,
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": str(folder),
            }
        providers = [(TENSORRT, options), (CUDA, dict(CUDA_OPTIONS))]
        session = open_session(self._library, graph, providers)
        return DeviceSession(self._library, session, graph.path.name)

    def _profile(self, graph: Graph) -> dict[str, str]:
        """Return the sizes of every dynamic input; one that is left out is compiled again."""
        shapes = {node.name: node.shape for node in self._inputs(graph)}
        dynamic = {name: each for name, each in shapes.items() if any(map(is_dynamic, each))}

        def at(images: int) -> str:
            sizes = {name: shape_for(name, each, images) for name, each in dynamic.items()}
            return ",".join(f"{name}:{'x'.join(map(str, each))}" for name, each in sizes.items())

        least, best, most = images_of(graph.batch)
        if not dynamic:
            return {}
        return {
            "trt_profile_min_shapes": at(least),
            "trt_profile_opt_shapes": at(best),
            "trt_profile_max_shapes": at(most),
        }

    def _inputs(self, graph: Graph) -> Any:
        """Return the inputs of a graph, read on the CPU."""
        options = self._library.SessionOptions()
        options.log_severity_level = QUIET
        options.graph_optimization_level = self._library.GraphOptimizationLevel.ORT_DISABLE_ALL
        with refusals(
            f"{graph.path.name} must load in onnxruntime {self.version}",
            "Install the onnxruntime-gpu that the bundle was verified with.",
        ):
            return self._library.InferenceSession(
                str(graph.path), options, providers=["CPUExecutionProvider"]
            ).get_inputs()


_SETTINGS = {
    "device_id": "0",
    "trt_fp16_enable": "0",  # the precision is that of the file
    "trt_builder_optimization_level": "3",
    "trt_cuda_graph_enable": "0",  # it needs fixed addresses
}
