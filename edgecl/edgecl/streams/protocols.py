"""What a run asks of a prediction, and which streams that fits.

cil   the classes are all those learned so far; no task, no domain is given.
dil   the classes stay, the domains change; no domain is given.
dcil  both may change from task to task; nothing is given.
mtil  as cil, and besides, Transfer, Avg and Last with the label set of the image's task given
      (metrics.mtil_transfer): the only figures that an oracle takes part in, and named so. Methods
      that read class names have them under every protocol; mtil says that they are what is asked.
"""

from typing import Any

from edgecl.errors import EdgeclError
from edgecl.streams import Stream, load_stream, takes_option

PROTOCOLS = ("cil", "dil", "dcil", "mtil")
ASKS = {
    "cil": "classes of its own in every task",
    "dil": "the same classes in every task",
    "dcil": "a sequence of domains and classes",
    "mtil": "classes of its own in every task, and two tasks at least",
}


class ProtocolError(EdgeclError):
    """A protocol that the stream or the method cannot serve."""


def load_as(name: str, protocol: str | None = None, **options: Any) -> Stream:
    """Load a stream for a protocol; a stream of several forms is built in the one asked for."""
    if protocol not in (None, "mtil") and takes_option(name, "protocol"):
        options["protocol"] = protocol
    stream = load_stream(name, **options)
    declare(stream, protocol)
    return stream


def declare(stream: Stream, protocol: str | None = None, *, reads_names: bool = True) -> str:
    """Return the protocol of a run: the one asked for where it fits, else the stream's own.

    Args:
        reads_names: whether the method can score a class that it has not learned.

    Raises:
        ProtocolError: if the stream or the method cannot serve it.
    """
    if protocol is None or protocol == stream.protocol:
        return stream.protocol
    whole = len(stream.classes)
    own = sum(len(task.classes) for task in stream.tasks) == whole
    fits = {
        "cil": own,
        "dil": all(len(task.classes) == whole for task in stream.tasks),
        "dcil": False,
        "mtil": own and len(stream.tasks) > 1,
    }
    if not fits[protocol]:
        raise ProtocolError(
            f"The protocol {protocol} needs a stream with {ASKS[protocol]}; {stream.name} is "
            f"{stream.protocol}, {len(stream.tasks)} tasks with {whole} classes in all. Leave the "
            "protocol out, or choose another stream."
        )
    if protocol == "mtil" and not reads_names:
        raise ProtocolError(
            "The protocol mtil needs a method that scores classes before it has learned them, by "
            "their names; this one cannot. Choose a vision-language method, or the protocol cil."
        )
    return protocol
