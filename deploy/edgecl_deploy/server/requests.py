"""Reads a request of Open Inference Protocol v2 (inference_rest.md, "Inference Request")."""

import math
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecl_deploy.errors import DeployError, ManifestError, RequestError, shown
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.manifest.fields import Fields
from edgecl_deploy.manifest.limits import MAX_AXIS, MAX_INTEGER, MAX_RANK
from edgecl_deploy.server.binary import elements, from_base64
from edgecl_deploy.server.limits import (
    MAX_BODY,
    MAX_ID,
    MAX_IMAGES,
    MAX_OUTPUTS,
    MAX_TIMEOUT,
    MAX_TOP,
)
from edgecl_deploy.server.oip import FILES, INPUT, OUTPUTS, Model

_SHOW = "docs/serve.md has an example of every request."
_BASE64 = 'Set parameters.content_type to "base64" and encode the file, or send it as binary data.'


@dataclass(frozen=True)
class Wanted:
    """An output that a request asks for."""

    name: str
    binary: bool
    classes: int = 0  # of the classification extension; 0 for the numbers themselves


@dataclass(frozen=True, eq=False)
class Request:
    """A request that was read.

    Attributes:
        images: Encoded files, or uint8 [b, side, side, 3].
        wanted: The outputs that it names; None for those that every answer has.
        binary: Whether outputs that are not named are binary.
        timeout: Seconds that it waits for its run at most; None for the server's.
    """

    id: str
    images: list[bytes] | np.ndarray
    top: int
    wanted: tuple[Wanted, ...] | None = None
    binary: bool = False
    timeout: float | None = None

    @property
    def told(self) -> bool:
        """Whether the caller sees the error of one image among others."""
        named = self.wanted is None or any(each.name == "error" for each in self.wanted)
        return named and len(self.images) > 1


def of_image(body: bytes, top: int, *, binary: bool) -> Request:
    """Return the request of a body that is one image file."""
    return Request(_new_id(), [body], top, binary=binary)


def read_request(head: bytes, tail: memoryview, model: Model, top: int) -> Request:
    """Read a request.

    Args:
        head: Its JSON.
        tail: Its binary tensors, in order.
        model: The one that it is for.
        top: Classes per image if it does not say how many.

    Raises:
        RequestError: It is no request for this model.
    """
    try:
        return _read(Fields(load_object(head, "a request", MAX_BODY), "request"), tail, model, top)
    except RequestError:
        raise
    except DeployError as error:  # of the strict parser, which knows files
        raise RequestError(400, error.must, error.found, _SHOW) from error


def _read(fields: Fields, tail: memoryview, model: Model, top: int) -> Request:
    given = _parameters(fields)
    outputs = (
        fields.optional("outputs", lambda key: fields.items(key, MAX_OUTPUTS))
        if fields.has("outputs")
        else None
    )
    binary = _flag(given, "binary_data_output")
    timeout = _whole(given, "timeout", 0, MAX_INTEGER)
    inputs = fields.items("inputs", MAX_OUTPUTS)
    if len(inputs) != 1:
        raise RequestError(
            400, f"request.inputs must be the one input {INPUT!r}", f"{len(inputs)} inputs", _SHOW
        )
    images = _images(Fields(inputs[0], "request.inputs[0]"), given, tail, model)
    return Request(
        fields.text("id", MAX_ID) if fields.peek("id") else _new_id(),
        images,
        _whole(given, "top_k", 1, MAX_TOP) or top,
        _outputs(outputs, binary),
        binary,
        min(timeout / 1e6, MAX_TIMEOUT) if timeout else None,
    )


def _parameters(fields: Fields) -> Fields:
    """Take the parameters of a request, an input or an output; there may be none."""
    key = "parameters"
    return Fields({} if fields.peek(key) is None else fields.take(key), f"{fields.where}.{key}")


def _flag(given: Fields, key: str, otherwise: bool = False) -> bool:
    return given.flag(key) if given.has(key) else otherwise


def _whole(given: Fields, key: str, low: int, high: int) -> int | None:
    return given.integer(key, low, high) if given.has(key) else None


def _images(
    item: Fields, given: Fields, tail: memoryview, model: Model
) -> list[bytes] | np.ndarray:
    """Take the one input.

    Raises:
        RequestError: Its data is not where it must be.
    """
    own = _parameters(item)
    for key, must in (("name", INPUT), ("datatype", model.datatype)):
        item.choice(key, (must,))
    shape = _shape(item, model)
    size = _whole(own, "binary_data_size", 0, MAX_BODY)
    if size is None:
        if len(tail):
            raise RequestError(
                400,
                "an input whose data is after the JSON must have parameters.binary_data_size",
                f"none, and {len(tail)} bytes",
                _SHOW,
            )
        values = _flat(item.take("data"), math.prod(shape), item.where)
        if model.datatype == "BYTES":
            return _decoded(values, _content_type(own) or _content_type(given))
        return _pixels(values).reshape(shape)
    if item.has("data") or size != len(tail):
        raise RequestError(
            400,
            "parameters.binary_data_size must be the number of bytes after the JSON, of an input "
            "without data",
            f"{size} for {len(tail)} bytes",
            _SHOW,
        )
    if model.datatype == "BYTES":
        return elements(tail, shape[0])
    if size != math.prod(shape):
        raise item.fail("shape", f"that of {size} bytes", shape)
    return np.frombuffer(tail, np.uint8).reshape(shape)


def _shape(item: Fields, model: Model) -> tuple[int, ...]:
    """Take a shape of 1 to so many images; one of files may be [n, 1].

    Raises:
        ManifestError: It is another model's.
        RequestError: There are too many images.
    """
    shape = item.items("shape", MAX_RANK)
    if any(type(size) is not int or not 0 <= size <= MAX_AXIS for size in shape):
        raise item.fail("shape", "a list of sizes", shape)
    fits = {(*shape[:1], *model.shape[1:])} | ({(*shape[:1], 1)} if model is FILES else set())
    if not shape or tuple(shape) not in fits:
        raise ManifestError(f"{item.where}.shape must be {list(model.shape)}", str(shape), _SHOW)
    if not 1 <= shape[0] <= MAX_IMAGES:
        raise RequestError(
            400,
            f"a request must have 1 to {MAX_IMAGES} images",
            str(shape[0]),
            "Send the others in further requests.",
        )
    return tuple(shape)


def _flat(data: object, count: int, where: str) -> list[Any]:
    """Return the elements of a tensor in JSON, flat or nested.

    Raises:
        ManifestError: There is another number of them.
    """
    values: list[Any] = [data]
    while values and isinstance(values[0], list):  # depth was bounded by the parser
        if not all(isinstance(each, list) for each in values):
            raise ManifestError(f"{where}.data must be nested evenly", "a mixture", _SHOW)
        values = [value for each in values for value in each]
        if len(values) > max(count, 1):
            break
    if not isinstance(data, list) or len(values) != count:
        found = f"{len(values)}" if isinstance(data, list) else shown(data)
        raise ManifestError(
            f"{where}.data must be a list of the {count} elements of its shape", found, _SHOW
        )
    return values


def _content_type(given: Fields) -> str | None:
    return given.choice("content_type", ("base64",)) if given.has("content_type") else None


def _decoded(values: list[Any], content_type: str | None) -> list[bytes]:
    """Return the files that texts hold.

    Raises:
        RequestError: They hold none.
    """
    if content_type is None:
        raise RequestError(
            400,
            "an image file in JSON must be in base64, and say so",
            "texts without parameters.content_type",
            _BASE64,
        )
    return from_base64(values, _BASE64)


def _pixels(values: list[Any]) -> np.ndarray:
    # 255.0 is 255: some clients write every number of a tensor as a float
    if any(
        type(each) not in {int, float} or not 0 <= each <= 255 or each != int(each)
        for each in values
    ):
        raise RequestError(400, "a pixel must be a whole number of 0 to 255", "another", _SHOW)
    return np.array(values, np.uint8)


def _outputs(items: list[Any] | None, binary: bool) -> tuple[Wanted, ...] | None:
    """Read what a request asks for, None where it names nothing.

    Raises:
        RequestError: It asks for an output twice.
    """
    if not items:
        return None
    found = tuple(_wanted(each, binary) for each in items)
    if len({each.name for each in found}) < len(found):
        raise RequestError(400, "an output must be asked for once", "one that is twice", _SHOW)
    return found


def _wanted(item: object, binary: bool) -> Wanted:
    """Read one output that a request asks for.

    Raises:
        RequestError: A class is asked of another output than the scores.
    """
    fields = Fields(item, "request.outputs[]")
    name = fields.choice("name", tuple(OUTPUTS))
    given = _parameters(fields)
    classes = _whole(given, "classification", 0, MAX_TOP) or 0
    if classes and name != "scores":
        raise RequestError(
            400, "classification must be asked of the output scores", shown(name), _SHOW
        )
    return Wanted(name, _flag(given, "binary_data", binary), classes)


def _new_id() -> str:
    return uuid.uuid4().hex[:12]
