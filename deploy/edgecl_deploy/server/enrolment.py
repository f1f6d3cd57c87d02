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
    WrongBackboneError,
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
    WrongBackboneError: 422,
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
        by_name: It is known by its name alone, without images.
        templates: Of the name; None for those of the text program.
    """

    name: str
    images: tuple[bytes, ...]
    note: str = ""
    keep_images: bool = False
    force: bool = False
    dry_run: bool = False
    by_name: bool = False
    templates: tuple[str, ...] | None = None


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
        by_name = fields.flag("by_name") if fields.has("by_name") else False
        texts = [] if by_name else fields.items("images", MAX_SHOWN)
        templates = None
        if by_name and fields.has("templates"):
            templates = fields.texts("templates", MAX_SHOWN)
        note = fields.text("note", MAX_NOTE) if fields.peek("note") else ""
        flags = {key: fields.flag(key) for key in _flags(by_name) if fields.has(key)}
    except DeployError as error:  # of the strict parser, which knows files
        raise RequestError(400, error.must, error.found, _SHOW) from error
    left = set(fields.unknown()) - {"note"}
    if left:
        own = ("by_name", "templates") if by_name else ("images",)
        known = ", ".join(("name", *own, "note", *_flags(by_name)))
        raise RequestError(400, f"a request must have no field but {known}", shown(min(left)), "")
    images = tuple(from_base64(texts, _SHOW)) if texts else ()
    return Showing(name, images, note, **flags, by_name=by_name, templates=templates)


def _flags(by_name: bool) -> tuple[str, ...]:
    """Return the flags of a request: without images none can be kept."""
    return _FLAGS[1:] if by_name else _FLAGS


def refused(error: DeployError) -> DeployError:
    """Return the answer to a class that cannot be taken; the error itself if it is not its own."""
    status = _STATUS.get(type(error))
    if status is None:
        return error
    return RequestError(status, error.must, error.found, error.action)
