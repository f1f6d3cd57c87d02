"""How the pages write figures, and what they say about protocols."""

from typing import Any

from edgecl.methods import methods
from edgecl.report._html import Html, join, tag
from edgecl.streams.protocols import PROTOCOLS

NBSP = "\N{NO-BREAK SPACE}"  # between a number and its unit


def protocol_words(name: str) -> tuple[str, str]:
    """Return a protocol's title and what it evaluates; of an unknown one its name alone."""
    protocol = PROTOCOLS.get(name)
    return (protocol.title, protocol.evaluates) if protocol else (name, "")


def method_title(name: str) -> str:
    """Return the name that papers use, where this release knows the method."""
    method = methods().get(name)
    return method.title if method else name


def method_paper(name: str) -> Html:
    """Return a link to the paper, or nothing where this release does not know the method."""
    method = methods().get(name)
    return join(" ", tag("a", "Paper", href=method.paper)) if method else Html()


def percent(value: float | int | None) -> str:
    """Write an accuracy, 0..1."""
    return "–" if value is None else f"{value * 100:.1f}{NBSP}%"


def points(value: float | int | None) -> str:
    """Write a difference of accuracies, in points of a hundredth, with a real minus sign."""
    if value is None:
        return "–"
    return f"{value * 100:.1f}".replace("-0.0", "0.0").replace("-", "\N{MINUS SIGN}")


def size(value: float | int) -> str:
    """Write bytes in KB of 1,000 bytes."""
    if value >= 10_000_000:
        return f"{value / 1e6:.0f}{NBSP}MB"
    if value >= 1_000_000:
        return f"{value / 1e6:.1f}{NBSP}MB"
    return f"{value / 1e3:.0f}{NBSP}KB" if value >= 100_000 else f"{value / 1e3:.1f}{NBSP}KB"


def duration(value: float | int) -> str:
    """Write milliseconds, seconds, or minutes and seconds."""
    if value < 0.95:
        return f"{value * 1000:.0f}{NBSP}ms"
    if value < 10:
        return f"{value:.1f}{NBSP}s"
    if value < 120:
        return f"{value:.0f}{NBSP}s"
    return f"{int(value) // 60}{NBSP}min {int(value) % 60:02d}{NBSP}s"


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested configuration as dotted names and text."""
    if isinstance(value, dict):
        return [
            pair
            for name, inner in value.items()
            for pair in flat(inner, f"{prefix}.{name}" if prefix else str(name))
        ]
    if isinstance(value, list):
        return [(prefix, ", ".join(map(str, value)))]
    if isinstance(value, bool):
        return [(prefix, "true" if value else "false")]
    return [(prefix, "none" if value is None else str(value))]
