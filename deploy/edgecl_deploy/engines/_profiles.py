"""What TensorRT compiles a graph for: the numbers of images, and all that a plan depends on."""

from collections.abc import Sequence

from edgecl_deploy.engines._types import FLOAT32, Capabilities, Graph
from edgecl_deploy.engines.artefacts import Key, key_of
from edgecl_deploy.errors import EngineError

FREE = (1, 8, 32)  # least, best and most where nobody chose a number
COMPILED = Capabilities(
    empty_tensors=False,
    dynamic_shapes=False,
    precisions=(FLOAT32, "float16"),
    device="cuda",
    compiles=True,
    batch=(FREE[0], FREE[2]),
)


def plan_key(engine: str, version: str, hardware: str, graph: Graph) -> Key | None:
    """Return all that a plan depends on, None if its graph has no digest and nothing is kept."""
    images = " ".join(map(str, images_of(graph.batch)))
    return key_of(engine, version, hardware, graph, images=images)


def images_of(batch: int | None) -> tuple[int, int, int]:
    """Return the least, best and largest number of images of a run.

    Args:
        batch: Images of every run; None for any number up to the largest.
    """
    return FREE if batch is None else (batch, batch, batch)


def is_dynamic(size: object) -> bool:
    """Return whether an axis has no fixed size: a name in ONNX Runtime, -1 in TensorRT."""
    return not isinstance(size, int) or size < 0


def shape_for(name: str, shape: Sequence[object], images: int) -> tuple[int, ...]:
    """Return the shape of an input for a number of images.

    Args:
        name: Of the input.
        shape: As the graph declares it.
        images: The size of its dynamic axis.

    Raises:
        EngineError: Another axis than the first is dynamic.
    """
    sizes = [
        images if place == 0 and is_dynamic(size) else size for place, size in enumerate(shape)
    ]
    fixed = tuple(size for size in sizes if isinstance(size, int) and size >= 0)
    if len(fixed) != len(sizes):
        raise EngineError(
            f"only the first axis of {name} may be dynamic in a graph with fixed slots",
            f"the shape {list(shape)}",
            "Export the bundle again, and report it if that changes nothing.",
        )
    return fixed
