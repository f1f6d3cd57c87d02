"""TensorRT's compiled graphs: how one is built from a graph, and read again.

Only what 10.x and 11.x share is used: strongly typed networks, no builder flag of a precision.
"""

from collections import deque
from pathlib import Path

import tensorrt as trt

from edgecl_deploy.engines._profiles import is_dynamic, shape_for
from edgecl_deploy.errors import EngineError, bounded

WORKSPACE = 1 << 30  # bytes that a layer may use while it runs
_REPORT = "Run `edgecl export verify` on the bundle (it checks what TensorRT takes)."


class Log(trt.ILogger):
    """Keeps the last errors of TensorRT, which answers a failure with None or False."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: deque[str] = deque(maxlen=3)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Take one message."""
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self._errors.append(msg)

    def error(self, must: str) -> EngineError:
        """Return an error with the last messages, and forget them."""
        found = "; ".join(self._errors) or "TensorRT refused it and gave no reason"
        self._errors.clear()
        return EngineError(must, bounded(found), _REPORT)


def build(log: Log, path: Path, images: tuple[int, int, int], timing: bytes) -> tuple[bytes, bytes]:
    """Compile a graph: minutes on a small device.

    Args:
        log: Of the engine.
        path: The `.onnx` file, with its weights in the same folder.
        images: The least, best and largest number of images of a run.
        timing: What an earlier build on this device measured; empty for nothing.

    Returns:
        The plan, and what this build measured.

    Raises:
        EngineError: TensorRT does not take the graph.
    """
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)  # it owns the weights until the plan is built
    if not parser.parse_from_file(str(path)):
        found = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(
            f"{path.name} must load in TensorRT {trt.__version__}",
            bounded("; ".join(found) or "the parser gave no reason"),
            _REPORT,
        )
    config = _configured(log, builder, network, images, timing)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise log.error(f"{path.name} must compile in TensorRT {trt.__version__}")
    measured = config.get_timing_cache()
    return bytes(plan), b"" if measured is None else bytes(measured.serialize())


def _configured(
    log: Log,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    images: tuple[int, int, int],
    timing: bytes,
) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # mantissas of 10 bits in what is called float32
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    profile = builder.create_optimization_profile()
    dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tensor.shape[:]
        if any(map(is_dynamic, shape)):
            dynamic = True
            profile.set_shape(
                tensor.name, *(shape_for(tensor.name, shape, each) for each in images)
            )
    if dynamic and config.add_optimization_profile(profile) < 0:
        raise log.error(f"TensorRT must take {images} images in a run")
    cache = config.create_timing_cache(timing)
    if not config.set_timing_cache(cache, False):  # of another device, which it looks at itself
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return config
