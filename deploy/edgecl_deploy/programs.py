"""Runs a program: its fused form in one graph, its staged form in up to four calls.

`bind` joins a loaded program with the learned tensors of one release; the result never changes,
so any number of threads may run it while another release is being bound.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgecl_deploy.engines import Engine, Graph, Pinned, Session
from edgecl_deploy.errors import EngineError, LimitError
from edgecl_deploy.format import (
    FROM_LEARNED,
    FROM_MATCH,
    INJECTED,
    PLAIN,
    FileRef,
    Program,
    SlotSpec,
    digest,
)
from edgecl_deploy.forms import Mode
from edgecl_deploy.manifest import limits

_ROWS = 32  # images times branches of one fused run: bounds its memory
_PADDING = np.float32(-1e9)  # added to the attention logits of padded rows: no weight is left
_IMAGE = "image"
_OUTPUTS = ("scores", "feature", "match", "match_score")
_REPORT = "Run `edgecl export verify` on the bundle, and report it if that passes."

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Scores:
    """The outputs of a program for a batch of images."""

    scores: np.ndarray  # float32 [b, c], one column per classifier row
    feature: np.ndarray  # float32 [b, f]
    match: np.ndarray  # int64 [b, k]
    match_score: np.ndarray  # float32 [b, k]


class Bound(Protocol):
    """A program with the learned tensors of one release."""

    def run(self, images: np.ndarray) -> Scores:
        """Run the program.

        Args:
            images: uint8 [b, h, w, 3].
        """


class Form(Protocol):
    """A program with its sessions."""

    def bind(self, learned: Arrays) -> Bound:
        """Join it with learned tensors.

        Args:
            learned: As `edgecl_deploy.format.learned_from` returns them.
        """


def load_program(
    engine: Engine,
    folder: Path,
    program: Program,
    mode: Mode,
    weights: FileRef | None = None,
    group: int = 0,
) -> Form:
    """Load the sessions of a program.

    Args:
        folder: Of the bundle.
        program: With the graphs of the mode's precision.
        mode: The engine can run it.
        weights: Of the graphs; None keeps nothing that the engine compiles.
        group: Of the variant.
    """

    def load(ref: FileRef, *, images: bool = False) -> Session:
        both = "" if weights is None else digest(f"{ref.sha256} {weights.sha256}".encode())
        return engine.load(
            Graph(
                path=folder / ref.file,
                digest=both,
                precision=mode.precision,
                group=group,
                batch=mode.batch if images else None,
                backbone=images,
            )
        )

    if mode.form == "fused":
        return _Fused(program, load(program.fused, images=True), split=mode.batch is None)
    staged, fixed = program.staged, mode.slots == "fixed"
    return _Staged(
        program,
        encode=load(staged.encode_fixed if fixed else staged.encode_dynamic, images=True),
        match=None if staged.match is None else load(staged.match),
        classify=load(staged.classify),
        fixed=fixed,
    )


def in_parts(images: np.ndarray, most: int | None, run: Callable[[np.ndarray], Scores]) -> Scores:
    """Run images some at a time, and join the outputs in their order.

    Args:
        images: Any number, also none.
        most: How many at a time; None for all at once.
        run: Runs some of them.
    """
    count = max(len(images), 1)
    step = most or count
    return joined([run(images[begin : begin + step]) for begin in range(0, count, step)])


def joined(runs: Sequence[Scores]) -> Scores:
    """Join the outputs of several runs, in their order."""
    if len(runs) == 1:
        return runs[0]
    return Scores(*(np.concatenate([getattr(run, name) for run in runs]) for name in _OUTPUTS))


def _check_graph(graph: str, session: Session, known: set[str], outputs: tuple[str, ...]) -> None:
    strange = sorted(set(session.inputs) - known)
    absent = sorted(set(outputs) - set(session.outputs))
    if strange or absent:
        raise EngineError(
            f"the graph {graph} must take only declared inputs and give {', '.join(outputs)}",
            f"the inputs {strange} too many, the outputs {absent} too few",
            _REPORT,
        )


def _of(session: Session, available: Arrays) -> dict[str, np.ndarray]:
    """Return those arrays that a graph takes."""
    return {name: available[name] for name in session.inputs if name in available}


class _Fused:
    """One graph from image to scores."""

    def __init__(self, program: Program, session: Session, *, split: bool) -> None:
        _check_graph("fused", session, {_IMAGE, *program.learned}, _OUTPUTS)
        self._program = program
        self._session = session
        self._split = split  # whether many images may be run in several parts

    def bind(self, learned: Arrays) -> "_BoundFused":
        branches = _branches(self._program, learned)
        most = None if branches is None or not self._split else max(1, _ROWS // branches)
        return _BoundFused(self._session.pin(_of(self._session, learned)), most)


class _BoundFused:
    """The fused form with the tensors of one release."""

    def __init__(self, pinned: Pinned, most: int | None) -> None:
        self._pinned = pinned
        self._most = most  # images of one run of the graph; None: any number

    def run(self, images: np.ndarray) -> Scores:
        return in_parts(images, self._most, self._once)

    def _once(self, images: np.ndarray) -> Scores:
        out = self._pinned.run({_IMAGE: images})
        return Scores(*(out[name] for name in _OUTPUTS))


class _Staged:
    """`encode` once or twice, `match` between, `classify` at the end."""

    def __init__(
        self,
        program: Program,
        encode: Session,
        match: Session | None,
        classify: Session,
        *,
        fixed: bool,
    ) -> None:
        slots = program.slots
        masks = {_mask_name(name) for name, slot in slots.items() if fixed and slot.masked}
        passes = {f"{each}_{output}" for each in program.passes for output in program.features}
        matched = tuple(name for name, slot in slots.items() if slot.source == FROM_MATCH)
        _check_graph("encode", encode, {_IMAGE, *slots, *masks}, program.features)
        scored = passes | {"match", "match_score", *program.learned}
        _check_graph("classify", classify, scored, ("scores", "feature"))
        if match is not None:
            outputs = ("match", "match_score", *matched)
            _check_graph("match", match, {"query", *program.learned}, outputs)
        self.program = program
        self.encode = encode
        self.match = match
        self.classify = classify
        self.fixed = fixed

    def bind(self, learned: Arrays) -> "_BoundStaged":
        return _BoundStaged(self, learned)


class _BoundStaged:
    """The staged form with the tensors of one release."""

    def __init__(self, staged: _Staged, learned: Arrays) -> None:
        self._staged = staged
        self._match = None if staged.match is None else staged.match.pin(_of(staged.match, learned))
        self._classify = staged.classify.pin(_of(staged.classify, learned))
        self._branches = _branches(staged.program, learned)
        encode, slots = staged.encode, learned_slots(staged.program, learned, fixed=staged.fixed)
        self._injected = [encode.pin(_of(encode, each)) for each in slots]

    def run(self, images: np.ndarray) -> Scores:
        staged, batch = self._staged, len(images)
        program, encode = staged.program, staged.encode
        plain: Arrays = {}
        if PLAIN in program.passes:
            neutral = neutral_slots(program, batch, fixed=staged.fixed)
            plain = encode.run(_of(encode, {**neutral, _IMAGE: images}))
        matched: Arrays = {
            "match": np.zeros((batch, 1), np.int64),
            "match_score": np.ones((batch, 1), np.float32),
        }
        if self._match is not None:
            matched = self._match.run({"query": plain["cls"]})
        inputs = {f"plain_{name}": plain[name] for name in plain}
        if INJECTED in program.passes:
            filled: dict[str, np.ndarray] = {_IMAGE: images}
            for name, slot in program.slots.items():
                if slot.source == FROM_MATCH:
                    filled.update(fill_slot(name, slot, matched[name], fixed=staged.fixed))
            feeds = _of(encode, filled)
            runs = [pinned.run(feeds) for pinned in self._injected]
            for name in program.features:
                rows = [run[name] for run in runs]
                together = rows[0] if self._branches is None else np.stack(rows, axis=1)
                inputs[f"injected_{name}"] = together
        inputs.update({name: matched[name] for name in ("match", "match_score")})
        out = {**matched, **self._classify.run(_of(staged.classify, inputs))}
        return Scores(*(out[name] for name in _OUTPUTS))


def learned_slots(program: Program, learned: Arrays, *, fixed: bool) -> list[dict[str, np.ndarray]]:
    """Return the slots that are the same for every image, per branch; one without the axis.

    Args:
        program: Its slots are filled.
        learned: As `edgecl_deploy.format.learned_from` returns them.
        fixed: As in `fill_slot`.
    """
    branches = _branches(program, learned)
    slots: list[dict[str, np.ndarray]] = [{} for _ in range(branches or 1)]
    for name, slot in program.slots.items():
        if slot.source == FROM_LEARNED:
            bank = learned[name] if branches else [learned[name]]
            for each, value in zip(slots, bank, strict=True):
                each.update(fill_slot(name, slot, value, fixed=fixed))
    return slots


def neutral_slots(program: Program, batch: int, *, fixed: bool) -> dict[str, np.ndarray]:
    """Return slots that change nothing, for so many images."""
    neutral: dict[str, np.ndarray] = {}
    for name, slot in program.slots.items():
        empty = np.zeros(slot.shape(batch, 0), np.float32)
        neutral.update(fill_slot(name, slot, empty, fixed=fixed))
    return neutral


def _branches(program: Program, learned: Arrays) -> int | None:
    if program.branches is None:
        return None
    count = len(learned[next(iter(program.slots))])
    if not 1 <= count <= limits.MAX_BRANCHES:
        raise LimitError(
            f"an image must take 1 to {limits.MAX_BRANCHES} injected passes, one per entry of the "
            f"axis {program.branches}",
            str(count),
            "Make a release of fewer tasks, or use another method.",
        )
    return count


def _mask_name(slot: str) -> str:
    return f"{slot}_mask"


def fill_slot(
    name: str, slot: SlotSpec, value: np.ndarray, *, fixed: bool
) -> dict[str, np.ndarray]:
    """Return the inputs of one slot.

    Args:
        value: float32 with the slot's axes; any length on the pad axis, 0 is neutral.
        fixed: Pad to the capacity, with a mask where the slot has one.

    Returns:
        The slot's input, and its mask (float32 [capacity], 0 for real rows) if there is one.

    Raises:
        LimitError: The value is longer than the capacity.
    """
    if not fixed or slot.pad_axis is None:
        return {name: value}
    axis = slot.axes.index(slot.pad_axis)
    length = value.shape[axis]
    if length > slot.capacity:
        raise LimitError(
            f"the slot {name} must have at most {slot.capacity} on the axis {slot.pad_axis}",
            str(length),
            "Use slots='dynamic', or export the bundle with a larger capacity.",
        )
    missing = [(0, slot.capacity - length if i == axis else 0) for i in range(value.ndim)]
    inputs = {name: np.pad(value, missing)}
    if slot.masked:
        mask = np.full(slot.capacity, _PADDING, np.float32)
        mask[:length] = 0.0
        inputs[_mask_name(name)] = mask
    return inputs
