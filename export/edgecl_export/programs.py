"""The graphs of one method: fused; and staged as encode, match and classify."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import nn

from edgecl.backbones import Backbone, Features
from edgecl.methods import Method
from edgecl.program.classifiers import Encoded
from edgecl.program.forward import classify as score
from edgecl.program.forward import infer
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


def trace_program(method: Method, backbone: Backbone) -> Graphs:
    """Export all graphs of a method on a backbone."""
    model, normalise = backbone.model, backbone.preprocess.normalise
    learned = learned_inputs(method.declare())
    image = {"image": image_input(backbone)}

    def fused(inputs: Inputs) -> Inputs:
        return infer(method, model, normalise(inputs["image"]), inputs)._asdict()

    def encode(inputs: Inputs) -> Inputs:
        pixels = normalise(inputs["image"])
        sites = method.injector.sites(inputs)
        return model(pixels, sites, taps=method.taps, tokens=method.tokens).named()

    def match(inputs: Inputs) -> Inputs:
        found = method.matcher(inputs["query"], inputs)
        slots = method.injector.fill(found, inputs)
        made = {name: slots[name] for name in matched_slots(method)}
        return {"match": found.index, "match_score": found.score, **made}

    def classify(inputs: Inputs) -> Inputs:
        nothing = torch.zeros(0, 0)
        index = inputs.get("match", nothing.long())
        found = Match(index, inputs.get("match_score", nothing))
        passes = {
            which: Features(**{name: inputs[f"{which}_{name}"] for name in rows})
            for which in method.passes
        }
        said = score(method, Encoded(passes.get("plain"), found, passes.get("injected")), inputs)
        return {name: getattr(said, name) for name in classified}

    row = Input(("b", "d"), {"d": backbone.width})
    rows = feature_inputs(method, row)
    features = {
        f"{which}_{name}": per_branch(method, item) if which == "injected" else item
        for which in method.passes
        for name, item in rows.items()
    }
    found = {
        "match": Input(("b", "k"), {}, torch.int64),
        "match_score": Input(("b", "k"), {}),
    }
    matches = not isinstance(method.matcher, NoMatcher)
    classified = ("scores", "feature", *(MATCH if method.rematches else ()))
    dynamic, fixed = (slot_inputs(method.slots(), fixed=each) for each in (False, True))
    host = nn.Identity()  # match and classify own no weights
    encode_dynamic = trace(model, encode, image | dynamic, tuple(rows))
    return Graphs(
        fused=trace(model, fused, image | learned, ("scores", "feature", *MATCH)),
        encode_dynamic=encode_dynamic,
        encode_fixed=encode_dynamic
        if fixed == dynamic
        else trace(model, encode, image | fixed, tuple(rows)),
        match=trace(host, match, {"query": row} | learned, (*MATCH, *matched_slots(method)))
        if matches
        else None,
        classify=trace(
            host,
            classify,
            features | (found if matches else {}) | learned,
            classified,
        ),
    )


def feature_inputs(method: Method, row: Input) -> dict[str, Input]:
    """Return what `encode` gives of a pass and `classify` takes."""
    rows = {"cls": row, "prompt": row}
    if method.taps:
        sizes = {"k": method.taps, "w": method.spec.width}
        rows["taps"] = Input(("b", "k", "w"), sizes)
    if method.tokens:
        rows["tokens"] = Input(("b", "n", "w"), {"w": method.spec.width})
    return rows


def per_branch(method: Method, row: Input) -> Input:
    """Return what `classify` takes of the injected pass: a row for every branch, if there are."""
    if not isinstance(method.injector, Branches):
        return row
    count = method.injector.count
    sizes = row.sizes if count is None else {**row.sizes, BRANCHES: count}
    return Input((row.axes[0], BRANCHES, *row.axes[1:]), sizes)


def matched_slots(method: Method) -> list[str]:
    """Return the slots that the matcher fills; the others are learned tensors fed as they are."""
    return [name for name, slot in method.slots().items() if slot.source == "match"]
