"""Embeds class names: the text program of a device that takes new names.

Most devices need none: the embeddings of the classes that a release knows are in its packs.
"""

import math
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from edgecl_deploy.engines import Graph, Session, make_engine
from edgecl_deploy.errors import EngineError, OptionError, WrongBackboneError, shown
from edgecl_deploy.files import read_bundle, read_file, verify_file
from edgecl_deploy.format import TextProgram, digest, parse_merges, parse_text, verify
from edgecl_deploy.format._text import NAME
from edgecl_deploy.loaded import BATCH
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest import names as rule
from edgecl_deploy.tokenizer import Tokenizer

TEXT_FILE = "text.json"
_REPORT = (
    "Export it again with `edgecl export text`, which checks it, and report it if it stays so."
)


class TextEncoder:
    """Embeds class names as the CLIP that it was exported from; many threads may use it.

    Attributes:
        program: The manifest.
        tokenizer: Texts to tokens.
        scale: The factor on the cosine of an image's and a name's embedding.
    """

    def __init__(self, program: TextProgram, tokenizer: Tokenizer, session: Session) -> None:
        self.program = program
        self.tokenizer = tokenizer
        self.scale = math.exp(program.logit_scale)
        self._session = session

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        bundle: str | os.PathLike[str] | None = None,
        *,
        engine: str = "auto",
        threads: int | None = None,
    ) -> "TextEncoder":
        """Open a text program; every byte is checked against the manifest before it is used.

        Args:
            path: The folder. Nobody may write in it while it is open.
            bundle: The bundle whose images the names are compared with: it must have the image
                tower that the text tower was trained with. None checks nothing.
            engine: The name of an engine; `auto` as `Classifier.open` has it.
            threads: Threads of one run, None for the engine's own choice.

        Raises:
            OptionError: The engine takes fixed shapes only.
            EngineError: The graph takes or returns something else than tokens and embeddings.
        """
        runner = make_engine(engine, threads)
        if not runner.capabilities().dynamic_shapes:
            raise OptionError(
                "a text program needs an engine with dynamic shapes",
                "one with fixed shapes",
                "Use engine='onnxruntime'.",
            )
        folder = Path(path)
        program, _ = read_text(folder)
        if bundle is not None:
            check_bundle(program, bundle)
        for ref in (program.graph, program.weights):
            verify_file(folder, ref)
        lines = read_file(folder / program.merges.file, program.merges.size)
        verify(lines, program.merges.sha256, program.merges.size, program.merges.file)
        merges = parse_merges(lines, program.vocab_size)
        session = runner.load(Graph(folder / program.graph.file))
        if session.inputs != ("tokens",) or "feature" not in session.outputs:
            raise EngineError(
                f"{program.graph.file} must take tokens and give feature",
                f"{session.inputs} and {session.outputs}",
                _REPORT,
            )
        return cls(program, Tokenizer(merges, program.context_length), session)

    def embed(self, names: Sequence[str], templates: Sequence[str] | None = None) -> np.ndarray:
        """Embed class names: the mean over the templates of their embeddings, normalised again.

        Args:
            names: As in a pack, of at most 200 characters.
            templates: Texts with {} in the place of the name, None for those of the program.

        Returns:
            float32 [c, f], of norm 1.

        Raises:
            OptionError: There are no names or templates, or one of them is malformed.
        """
        templates = self.program.templates if templates is None else templates
        for what, texts, part in (("class names", names, ""), ("templates", templates, NAME)):
            if isinstance(texts, str) or not texts:
                raise OptionError(f"{what} must be a list of texts", shown(texts), "Give one.")
            for text in texts:
                _check_text(text) if part else _check_name(text)
        stored = map(rule.canonical, names)
        filled = (template.replace(NAME, name) for name in stored for template in templates)
        rows = []
        while some := list(islice(filled, BATCH)):
            rows.append(self.encode(self.tokenizer(some)))
        mean = np.concatenate(rows).reshape(len(names), len(templates), -1).mean(axis=1)
        embeddings: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return embeddings

    def encode(self, tokens: np.ndarray) -> np.ndarray:
        """Embed tokenised texts.

        Args:
            tokens: int64 [b, n] of at most `context_length` columns, as `tokenizer` returns them.

        Returns:
            float32 [b, f], of norm 1.

        Raises:
            OptionError: They have another dtype or shape.
            EngineError: The graph returns something else.
        """
        longest = self.program.context_length
        if tokens.dtype != np.int64 or tokens.ndim != 2 or not 2 <= tokens.shape[1] <= longest:
            raise OptionError(
                f"tokens must be int64 [b, n] with n from 2 to {longest}",
                f"{tokens.dtype} {list(tokens.shape)}",
                "Make them with `encoder.tokenizer`.",
            )
        out = self._session.run({"tokens": np.ascontiguousarray(tokens)})["feature"]
        shape = (len(tokens), self.program.width)
        if out.shape != shape or out.dtype != np.float32 or not np.isfinite(out).all():
            raise EngineError(
                f"{self.program.graph.file} must give finite float32 {list(shape)}",
                f"{out.dtype} {list(out.shape)}",
                _REPORT,
            )
        return out


def read_text(path: str | os.PathLike[str]) -> tuple[TextProgram, str]:
    """Read the manifest of a text program.

    Returns:
        The manifest and its digest.
    """
    data = read_file(Path(path) / TEXT_FILE, limits.MAX_MANIFEST)
    return parse_text(data), digest(data)


def check_bundle(program: TextProgram, bundle: str | os.PathLike[str]) -> None:
    """Check that the images of a bundle can be compared with the names of a text program.

    Raises:
        WrongBackboneError: The bundle has another image tower.
    """
    found = read_bundle(bundle).bundle.backbone.digest
    if found != program.backbone:
        raise WrongBackboneError(
            f"the text program belongs to the backbone {program.backbone[:12]}",
            f"a bundle of {found[:12]}",
            "Install the text program that was exported from the bundle's CLIP, with the same "
            "weights and image size.",
        )


def check_templates(templates: Sequence[str]) -> None:
    """Check templates as a manifest may hold them.

    Raises:
        OptionError: There are too many, or one is too long, not printable or lacks its {}.
    """
    if len(templates) > limits.MAX_TEMPLATES:
        raise OptionError(
            f"there must be at most {limits.MAX_TEMPLATES} templates",
            str(len(templates)),
            "Leave some out.",
        )
    for template in templates:
        _check_text(template)


def _check_name(name: str) -> None:
    wrong = rule.fault(name)
    if wrong is not None:
        raise OptionError(f"a class must have {rule.RULE}", f"{shown(name)}: {wrong}", "Rename it.")


def _check_text(text: str) -> None:
    longest = limits.MAX_CLASS_NAME
    if not 0 < len(text) <= longest or not text.isprintable() or NAME not in text:
        raise OptionError(
            f"a template must be a printable text of 1 to {longest} characters with {{}} for the "
            "name",
            shown(text),
            "Write it so; line ends and control characters are not printable.",
        )
