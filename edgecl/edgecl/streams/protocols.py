"""What a run evaluates: the one table of protocols, and which streams and methods each is for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgecl.errors import EdgeclError
from edgecl.streams._registry import load_stream, takes_option
from edgecl.streams._types import STREAM_PROTOCOLS, Stream, StreamProtocol


class ProtocolError(EdgeclError):
    """A protocol that the stream or the method cannot serve."""


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate a run.

    Attributes:
        name: on the command line and in run folders.
        title: in reports.
        evaluates: what a test image comes with, in reports.
        needs: what the stream must have.
        fits: whether a stream of another protocol has it.
        of_stream: the protocol of a stream that its tasks are built for.
        needs_names: the method must score classes that it has not learned, by their names.
        one_pass: images come once and no task is told apart, so the method needs no task's end.
        shared_names: tasks are data sets of their own, and one name in several is several classes.
    """

    name: str
    title: str
    evaluates: str
    needs: str
    fits: Callable[[Stream], bool]
    of_stream: StreamProtocol
    needs_names: bool = False
    one_pass: bool = False
    shared_names: bool = False


def _own_classes(stream: Stream) -> bool:
    return sum(len(task.classes) for task in stream.tasks) == len(stream.classes)


def _same_classes(stream: Stream) -> bool:
    return all(len(task.classes) == len(stream.classes) for task in stream.tasks)


AMONG_ALL = (
    "Every test image is classified among all classes learned so far; its task is not given."
)
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="cil",
            title="class-incremental (CIL)",
            evaluates=AMONG_ALL,
            needs="classes of its own in every task",
            fits=_own_classes,
            of_stream="cil",
        ),
        Protocol(
            name="dil",
            title="domain-incremental (DIL)",
            evaluates="The classes stay and the domains change; the domain of a test image is not "
            "given.",
            needs="the same classes in every task",
            fits=_same_classes,
            of_stream="dil",
        ),
        Protocol(
            name="dcil",
            title="domain-class-incremental (DCIL)",
            evaluates="Tasks bring new classes and new domains; a test image comes with neither.",
            needs="a sequence of domains and classes",
            fits=lambda _: False,
            of_stream="dcil",
        ),
        Protocol(  # the figures are in metrics.mtil_transfer
            name="mtil",
            title="multi-domain task-incremental (MTIL)",
            evaluates=f"{AMONG_ALL} For Transfer, Avg and Last, and for the figures with the task "
            "given, the label set of the image's task is given.",
            needs="classes of its own in every task, and two tasks at least",
            fits=lambda stream: _own_classes(stream) and len(stream.tasks) > 1,
            of_stream="cil",
            needs_names=True,
            shared_names=True,
        ),
        Protocol(
            name="online",
            title="online, without tasks",
            evaluates=f"Images come once; tasks may share classes, and the method is told no end "
            f"of a task. {AMONG_ALL}",
            needs="classes of its own in every task, or a blurry one (--blurry)",
            fits=_own_classes,
            of_stream="cil",
            one_pass=True,
        ),
    )
}


def load_as(name: str, protocol: str | None = None, **options: Any) -> Stream:
    """Load a stream for a protocol; a stream of several forms is built in the one asked for."""
    if protocol in STREAM_PROTOCOLS and takes_option(name, "protocol"):
        options["protocol"] = protocol
    asked = PROTOCOLS.get(protocol or "")
    if asked is not None and asked.shared_names and takes_option(name, "shared_names"):
        options.setdefault("shared_names", True)
    stream = load_stream(name, **options)
    declare(stream, protocol)
    return stream


def declare(
    stream: Stream,
    protocol: str | None = None,
    *,
    reads_names: bool = True,
    needs_end: str = "",
) -> str:
    """Return the protocol of a run: the one asked for where it fits, else the stream's own.

    Args:
        reads_names: whether the method can score a class that it has not learned.
        needs_end: what the method needs the end of a task for, and what to do (`Method.task_end`).

    Raises:
        ProtocolError: if there is no such protocol, or the stream or the method cannot serve it.
    """
    if protocol is None:
        protocol = stream.protocol
    if protocol not in PROTOCOLS:
        raise ProtocolError(
            f"A protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}. "
            f"Leave it out for the stream's own, {stream.protocol}."
        )
    asked = PROTOCOLS[protocol]
    if protocol != stream.protocol and not asked.fits(stream):
        raise ProtocolError(
            f"The protocol {protocol} needs a stream with {asked.needs}; {stream.name} is "
            f"{stream.protocol}, {len(stream.tasks)} tasks with {len(stream.classes)} classes in "
            "all. Leave the protocol out, or choose another stream."
        )
    if asked.needs_names and not reads_names:
        raise ProtocolError(
            f"The protocol {protocol} needs a method that scores classes before it has learned "
            "them, by their names; this one cannot. Choose a vision-language method, or the "
            f"protocol {asked.of_stream}."
        )
    if asked.one_pass and needs_end:
        raise ProtocolError(
            f"The protocol {protocol} needs a method that learns as images come, without the end "
            f"of a task; {needs_end}"
        )
    return protocol
