"""The graphs of one method: fused; and staged as encode, match and classify."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import nn

from edgecl.backbones import Backbone, Features
from edgecl.program import Program
from edgecl.program.classifiers import Encoded
from edgecl.program.injectors import Branches, Slot
from edgecl.program.injectors.branches import BRANCHES
from edgecl.program.learned import TensorSpec
from edgecl.program.matchers import Match, NoMatcher
from edgecl_export.graphs import Input, Inputs, trace

MATCH = ("match", "match_score")


@dataclass(frozen=True)
class Graphs:
    """All graphs of one program; `match` is None where nothing is matched."""

    fused: ir.Model
    encode_dynamic: ir.Model
    encode_fixed: ir.Model
    match: ir.Model | None
    classify: ir.Model


def image_input(backbone: Backbone) -> Input:
    """Return the input `image`, uint8 [b, h, w, 3]."""
    size = backbone.preprocess.size
    return Input(("b", "h", "w", "rgb"), {"h": size, "w": size, "rgb": 3}, torch.uint8)


def learned_inputs(declared: Mapping[str, TensorSpec]) -> dict[str, Input]:
    """Return the inputs that hold what was learned."""
    return {
        name: Input(item.axis_names, item.sizes, least=item.least)
        for name, item in declared.items()
    }


def slot_inputs(slots: Mapping[str, Slot], fixed: bool) -> dict[str, Input]:
    """Return the slot inputs of `encode`, with masks where fixed slots need them."""
    inputs: dict[str, Input] = {}
    for name, slot in slots.items():
        axes = tuple(slot.axes.split())
        if fixed and slot.pad_axis is not None:
            inputs[name] = Input(axes, {**slot.sizes, slot.pad_axis: slot.capacity})
            if slot.masked:
                inputs[f"{name}_mask"] = Input(("p",), {"p": slot.capacity})
        else:
            least = {} if slot.pad_axis is None else {slot.pad_axis: 0}
            inputs[name] = Input(axes, slot.sizes, least=least)
    return inputs


def trace_program(program: Program, backbone: Backbone) -> Graphs:
    """Export all graphs of a program on a backbone."""
    model, normalise = backbone.model, backbone.preprocess.normalise
    learned = learned_inputs(program.declare())
    image = {"image": image_input(backbone)}

    def fused(inputs: Inputs) -> Inputs:
        return program.infer(model, normalise(inputs["image"]), inputs)._asdict()

    def encode(inputs: Inputs) -> Inputs:
        pixels = normalise(inputs["image"])
        sites = program.injector.sites(inputs)
        return model(pixels, sites, taps=program.taps, tokens=program.reads_tokens).named()

    def match(inputs: Inputs) -> Inputs:
        found = program.matcher(inputs["query"], inputs)
        slots = program.injector.fill(found, inputs)
        made = {name: slots[name] for name in matched_slots(program)}
        return {"match": found.index, "match_score": found.score, **made}

    def classify(inputs: Inputs) -> Inputs:
        nothing = torch.zeros(0, 0)
        index = inputs.get("match", nothing.long())
        found = Match(index, inputs.get("match_score", nothing))
        passes = {
            which: Features(**{name: inputs[f"{which}_{name}"] for name in rows})
            for which in program.passes
        }
        said = program.classify(Encoded(passes.get("plain"), found, passes.get("injected")), inputs)
        return {name: getattr(said, name) for name in classified}

    row = Input(("b", "d"), {"d": backbone.width})
    rows = feature_inputs(program, row)
    features = {
        f"{which}_{name}": per_branch(program, item) if which == "injected" else item
        for which in program.passes
        for name, item in rows.items()
    }
    found = {
        "match": Input(("b", "k"), {}, torch.int64),
        "match_score": Input(("b", "k"), {}),
    }
    matches = not isinstance(program.matcher, NoMatcher)
    classified = ("scores", "feature", *(MATCH if program.late_matcher is not None else ()))
    dynamic, fixed = (slot_inputs(program.slots(), fixed=each) for each in (False, True))
    host = nn.Identity()  # match and classify own no weights
    encode_dynamic = trace(model, encode, image | dynamic, tuple(rows))
    return Graphs(
        fused=trace(model, fused, image | learned, ("scores", "feature", *MATCH)),
        encode_dynamic=encode_dynamic,
        encode_fixed=encode_dynamic
        if fixed == dynamic
        else trace(model, encode, image | fixed, tuple(rows)),
        match=trace(host, match, {"query": row} | learned, (*MATCH, *matched_slots(program)))
        if matches
        else None,
        classify=trace(
            host,
            classify,
            features | (found if matches else {}) | learned,
            classified,
        ),
    )


def feature_inputs(program: Program, row: Input) -> dict[str, Input]:
    """Return what `encode` gives of a pass and `classify` takes."""
    rows = {"cls": row, "prompt": row}
    if program.taps:
        sizes = {"k": program.taps, "w": program.spec.width}
        rows["taps"] = Input(("b", "k", "w"), sizes)
    if program.reads_tokens:
        rows["tokens"] = Input(("b", "n", "w"), {"w": program.spec.width})
    return rows


def per_branch(program: Program, row: Input) -> Input:
    """Return what `classify` takes of the injected pass: a row for every branch, if there are."""
    if not isinstance(program.injector, Branches):
        return row
    count = program.injector.count
    sizes = row.sizes if count is None else {**row.sizes, BRANCHES: count}
    return Input((row.axes[0], BRANCHES, *row.axes[1:]), sizes)


def matched_slots(program: Program) -> list[str]:
    """Return the slots that the matcher fills; the others are learned tensors fed as they are."""
    return [name for name, slot in program.slots().items() if slot.source == "match"]
