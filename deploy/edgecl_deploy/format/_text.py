"""The manifest of a text program, which embeds class names (docs/format.md, "Text program")."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecl_deploy.errors import DuplicateKeyError, LimitError, ManifestError, shown
from edgecl_deploy.format._variant import FileRef
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.canonical import REEXPORT, canonical, check_version, load_object
from edgecl_deploy.manifest.fields import Fields

TEXT_FORMAT = "edgecl-text/1"
CLIP_BPE = "clip-bpe"  # the only tokenizer there is
NAME = "{}"  # the place of the class name in a template
OUTSIDE = 2 * 256 + 2  # tokens that are no merges: bytes, bytes that end a word, start, end
_LARGEST_SCALE = 100.0  # exp(100) is far from every temperature
Merges = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TextProgram:
    """`text.json`: the text tower of a CLIP, its tokenizer, and the towers that they belong to."""

    clip: str  # digest of both towers and the temperature
    backbone: str  # digest of the image tower, as bundles and packs name it
    width: int  # f, of an embedding
    context_length: int  # tokens of a text at most, start and end among them
    vocab_size: int
    logit_scale: float  # logarithm of the factor on the cosine
    templates: tuple[str, ...]
    graph: FileRef
    weights: FileRef
    merges: FileRef
    tolerance: float  # largest error of a number of an embedding that the export allowed
    created_by: str
    tokenizer: str = CLIP_BPE
    extra: Mapping[str, Any] = field(default_factory=dict)

    def files(self) -> tuple[FileRef, ...]:
        """List every file but text.json."""
        return (self.graph, self.weights, self.merges)

    def to_bytes(self) -> bytes:
        """Write `text.json` in canonical form."""
        return canonical({
            **self.extra,
            "format": TEXT_FORMAT,
            "clip": self.clip,
            "backbone": self.backbone,
            "width": self.width,
            "tokenizer": self.tokenizer,
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "logit_scale": float(self.logit_scale),
            "templates": list(self.templates),
            "graph": self.graph.to_json(),
            "weights": self.weights.to_json(),
            "merges": self.merges.to_json(),
            "tolerance": float(self.tolerance),
            "created_by": self.created_by,
        })


def parse_text(data: bytes) -> TextProgram:
    """Read `text.json`.

    Returns:
        The text program; its unknown fields are kept in `extra`.

    Raises:
        ManifestError: A field is malformed, or two fields name one file.
    """
    where = "text.json"
    fields = Fields(load_object(data, where, limits.MAX_MANIFEST), where)
    check_version(fields.take("format"), TEXT_FORMAT, where)
    program = TextProgram(
        clip=fields.sha256("clip"),
        backbone=fields.sha256("backbone"),
        width=fields.integer("width", 1, limits.MAX_AXIS),
        tokenizer=fields.choice("tokenizer", (CLIP_BPE,)),
        context_length=fields.integer("context_length", 3, limits.MAX_CONTEXT),
        vocab_size=fields.integer("vocab_size", OUTSIDE, limits.MAX_AXIS),
        logit_scale=fields.number("logit_scale", -_LARGEST_SCALE, _LARGEST_SCALE),
        templates=fields.texts("templates", limits.MAX_TEMPLATES),
        graph=FileRef.read(fields.child("graph"), limits.MAX_GRAPH),
        weights=FileRef.read(fields.child("weights"), limits.MAX_WEIGHTS),
        merges=FileRef.read(fields.child("merges"), limits.MAX_MERGES),
        tolerance=fields.number("tolerance", 0, 1),
        created_by=fields.text("created_by"),
        extra=fields.unknown(),
    )
    if not program.templates or not all(NAME in template for template in program.templates):
        raise fields.fail("templates", "texts with {} for the class name", list(program.templates))
    names = [where, *(ref.file for ref in program.files())]
    if len(set(names)) != len(names):
        raise ManifestError(f"{where} must name different files", shown(" ".join(names)), REEXPORT)
    return program


def write_merges(merges: Merges) -> bytes:
    """Write the merges of a byte-pair encoding: a line each, its two parts with a space between.

    Args:
        merges: The first to be merged first.
    """
    return "".join(f"{left} {right}\n" for left, right in merges).encode()


def parse_merges(data: bytes, vocab_size: int) -> Merges:
    """Read the merges of a byte-pair encoding.

    Args:
        vocab_size: Tokens that the graph knows.

    Returns:
        The merges, the first to be merged first.

    Raises:
        ManifestError: A line is no pair, or the text is not UTF-8.
        DuplicateKeyError: Two merges make the same token.
        LimitError: There are more than the graph has tokens for.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ManifestError("merges must be UTF-8", shown(str(error)), REEXPORT) from error
    if lines.pop() or not all(len(parts) == 2 and all(parts) for parts in map(_parts, lines)):
        raise ManifestError(
            "merges must be lines of two parts with one space between", "something else", REEXPORT
        )
    if len(lines) + OUTSIDE > vocab_size:
        raise LimitError(
            f"merges must be at most {vocab_size - OUTSIDE}, as the graph has {vocab_size} tokens",
            str(len(lines)),
            REEXPORT,
        )
    if len({line.replace(" ", "") for line in lines}) != len(lines):
        raise DuplicateKeyError("merges must make each token once", "one twice", REEXPORT)
    return tuple((left, right) for left, right in map(_parts, lines))


def _parts(line: str) -> list[str]:
    return line.split(" ")
