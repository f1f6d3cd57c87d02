"""The graphs of one method: fused; and staged as encode, match and classify."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import nn

from edgecl.backbones import Backbone, Features
from edgecl.classifiers import Encoded
from edgecl.injectors import Slot
from edgecl.learned import Learned
from edgecl.matching import Match
from edgecl.methods import Method
from edgecl.program import infer
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


def learned_inputs(declared: Mapping[str, Learned]) -> dict[str, Input]:
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
        return model(normalise(inputs["image"]), method.injector.sites(inputs))._asdict()

    def match(inputs: Inputs) -> Inputs:
        found = method.matcher(inputs["query"], inputs)
        slots = method.injector.fill(found, inputs)
        made = {name: slots[name] for name in matched_slots(method)}
        return {"match": found.index, "match_score": found.score, **made}

    def classify(inputs: Inputs) -> Inputs:
        nothing = Match(torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0))
        passes = {
            which: Features(inputs[f"{which}_cls"], inputs[f"{which}_prompt"])
            for which in method.passes
        }
        encoded = Encoded(passes.get("plain"), nothing, passes.get("injected"))
        return {
            "scores": method.classifier.scores(encoded, inputs),
            "feature": method.classifier.feature(encoded),
        }

    row = Input(("b", "d"), {"d": backbone.width})
    features = {f"{which}_{part}": row for which in method.passes for part in Features._fields}
    slots = method.slots()
    host = nn.Identity()  # match and classify own no weights
    encode_dynamic = trace(model, encode, image | slot_inputs(slots, fixed=False), Features._fields)
    return Graphs(
        fused=trace(model, fused, image | learned, ("scores", "feature", *MATCH)),
        encode_dynamic=encode_dynamic,
        encode_fixed=trace(model, encode, image | slot_inputs(slots, fixed=True), Features._fields)
        if slots
        else encode_dynamic,
        match=trace(host, match, {"query": row} | learned, (*MATCH, *matched_slots(method)))
        if method.matcher.name != "none"
        else None,
        classify=trace(host, classify, features | learned, ("scores", "feature")),
    )


def matched_slots(method: Method) -> list[str]:
    """Return the slots that the matcher fills; the others are learned tensors fed as they are."""
    return [name for name, slot in method.slots().items() if slot.source == "match"]
