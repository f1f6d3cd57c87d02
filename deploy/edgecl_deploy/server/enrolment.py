"""Reads a request that gives this device a class (docs/serve.md, "Classes of this device")."""

from dataclasses import dataclass

from edgecl_deploy.enrol.records import MAX_NOTE
from edgecl_deploy.errors import (
    BusyError,
    DeployError,
    EnrolmentUnsupportedError,
    LimitError,
    LocalTestError,
    NameTakenError,
    NotEnoughError,
    OptionError,
    RequestError,
    StateMissingError,
    shown,
)
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.manifest.fields import Fields
from edgecl_deploy.server.binary import from_base64
from edgecl_deploy.server.limits import MAX_BODY, MAX_SHOWN

BY = "over HTTP"  # who enrols, for the list of classes
_SHOW = "docs/serve.md has an example."
_LONGEST_NAME = 1000  # characters that are looked at; names have their own rule
_FLAGS = ("keep_images", "force", "dry_run")
_STATUS: dict[type[DeployError], int] = {
    BusyError: 503,
    EnrolmentUnsupportedError: 422,
    StateMissingError: 422,
    LimitError: 409,
    LocalTestError: 409,
    NameTakenError: 409,
    NotEnoughError: 400,
    OptionError: 400,
}


@dataclass(frozen=True)
class Showing:
    """A class that somebody shows.

    Attributes:
        name: Of the class, as it was given.
        images: Encoded files.
        note: A remark, for people.
        keep_images: As `Classifier.enrol` has it, and the others.
    """

    name: str
    images: tuple[bytes, ...]
    note: str = ""
    keep_images: bool = False
    force: bool = False
    dry_run: bool = False


def read_showing(body: bytes) -> Showing:
    """Read a request.

    Args:
        body: Its JSON.

    Raises:
        RequestError: It is no such request.
    """
    try:
        fields = Fields(load_object(body, "a request", MAX_BODY), "request")
        name = fields.text("name", _LONGEST_NAME)
        texts = fields.items("images", MAX_SHOWN)
        note = fields.text("note", MAX_NOTE) if fields.peek("note") else ""
        flags = {key: fields.flag(key) for key in _FLAGS if fields.has(key)}
    except DeployError as error:  # of the strict parser, which knows files
        raise RequestError(400, error.must, error.found, _SHOW) from error
    left = set(fields.unknown()) - {"note"}
    if left:
        known = ", ".join(("name", "images", "note", *_FLAGS))
        raise RequestError(400, f"a request must have no field but {known}", shown(min(left)), "")
    return Showing(name, tuple(from_base64(texts, _SHOW)), note, **flags)


def refused(error: DeployError) -> DeployError:
    """Return the answer to a class that cannot be taken; the error itself if it is not its own."""
    status = _STATUS.get(type(error))
    if status is None:
        return error
    return RequestError(status, error.must, error.found, error.action)
