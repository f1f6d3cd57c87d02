"""The one rule of class and task names, asked by every reader and every writer.

A name is 1 to 200 characters that people can see, in Unicode's form NFC, without blanks at its
ends; every blank in it is a plain space. Refused are controls, line breaks, surrogates, private
and unassigned characters, and what is invisible: marks of direction, zero-width spaces, fillers.
Allowed beside what is seen are the joiners that spell words and emoji (U+200C, U+200D) and the tag
characters of a flag.

A writer stores `canonical` names; a reader refuses others. A reader accepts characters that its
own release of Unicode does not know: the workstation may have a later one.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from edgecl_deploy.manifest import limits

JOINERS = "\u200c\u200d"
RULE = (
    f"a name of 1 to {limits.MAX_CLASS_NAME} visible characters in NFC, without blanks at its ends"
)
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")  # of a part of a country
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and signs that show nothing
_KINDS = {
    "Cc": "the control character",
    "Cf": "the invisible character",
    "Cn": "the unassigned character",
    "Co": "the private character",
    "Zl": "the line separator",
    "Zp": "the paragraph separator",
}
_LINE_BREAKS = frozenset("\n\v\f\r\x1c\x1d\x1e\x85")


def canonical(name: str) -> str:
    """Return the form in which a name is stored: NFC, every blank a space, none at the ends."""
    if name.isascii():
        return name.strip(" ")
    composed = unicodedata.normalize("NFC", name)
    return "".join(" " if unicodedata.category(c) == "Zs" else c for c in composed).strip(" ")


def folded(name: str) -> str:
    """Return what two names have in common that are one name to people: no case, one spelling."""
    return unicodedata.normalize("NFC", canonical(name).casefold())


def fault(name: str) -> str | None:
    """Return what is wrong with a name that is to be stored; None if nothing is.

    Args:
        name: As a person gave it; `canonical` is what is stored.
    """
    name = canonical(name)
    return next(filter(None, map(_fault, _FLAG.sub("x", name))), None) or _size(name)


def stored_fault(name: str) -> str | None:
    """Return what is wrong with a name in a file; None if nothing is."""
    if canonical(name) != name:
        return "another form than NFC, or other blanks than plain ones inside"
    if name.isascii() and name.isprintable():
        return _size(name)
    faults = (_fault(c) for c in _FLAG.sub("x", name) if not _later(c))
    return next(filter(None, faults), None) or _size(name)


def task_fault(task: int, name: str, classes: Sequence[str], known: Sequence[str]) -> str | None:
    """Return why no pack can hold the names of a task; None if one can."""
    for what, each in (("its name", name), *(("a class", each) for each in classes)):
        wrong = stored_fault(each)
        if wrong is not None:
            return f"{what} {quoted(each)}: {wrong}"
    if len(classes) > limits.MAX_ROWS:
        return f"{len(classes)} classes, more than {limits.MAX_ROWS}"
    if task >= limits.MAX_PACKS:
        return f"the number {task}, and a release has at most {limits.MAX_PACKS} packs"
    most = limits.MAX_PACK_MANIFEST - limits.MAX_PACK_BASE
    held = sum(len(each.encode()) + len('"",') for each in (*classes, *known))
    return f"names of {held} bytes together, more than {most}" if held > most else None


def one_name(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two that are one name under NFC and without case; None if all differ."""
    seen: dict[str, str] = {}
    for name in names:
        key = folded(name)
        if (other := seen.get(key)) is not None:
            return other, name
        seen[key] = name
    return None


def quoted(name: str) -> str:
    """Return a name in quotes; what cannot be shown is escaped."""
    return repr(name) if _plain(name) else ascii(name)


def both(one: str, other: str) -> str:
    """Return two names in quotes, escaped where they look alike."""
    alike = one != other and canonical(one) == canonical(other)
    show = ascii if alike else quoted
    return f"{show(one)} and {show(other)}"


def spelled(text: str) -> str:
    """Return a text that any output can encode as UTF-8, such as the name of a file.

    Bytes that are not UTF-8, controls and invisible characters are escaped.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in JOINERS or not _fault(c) else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    byte = ord(character) - 0xDC00  # of a byte that is not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else ascii(character)[1:-1]


def _plain(name: str) -> bool:
    return canonical(name) == name and fault(name) is None


def _size(name: str) -> str | None:
    if not 0 < len(name) <= limits.MAX_CLASS_NAME:
        return f"{len(name)} characters"
    seen = any(unicodedata.category(c)[0] not in "CZM" or _later(c) for c in name)
    return None if seen else "nothing that can be seen"


def _later(character: str) -> bool:
    """Return whether a later release of Unicode may have this character."""
    code = ord(character)
    never = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return unicodedata.category(character) == "Cn" and not never


def _fault(character: str) -> str | None:
    if character.isascii() and character.isprintable():
        return None
    code = f"U+{ord(character):04X}"
    if "\udc80" <= character <= "\udcff":
        return f"the byte 0x{ord(character) - 0xDC00:02X}, which is not UTF-8"
    if character in _LINE_BREAKS:
        return f"a line break ({code})"
    if character in _FILLERS:
        return f"the invisible character {code}"
    category = unicodedata.category(character)
    if character in JOINERS or category not in {*_KINDS, "Cs"}:
        return None
    if category == "Cs":
        return f"the surrogate {code}"
    return f"{_KINDS[category]} {code}"
