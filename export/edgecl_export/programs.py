"""The graphs of one method: fused; and staged as encode, match and classify."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import onnx_ir as ir
import torch
from torch import nn

from edgecl.backbones import Backbone, Features
from edgecl.program import Pass, Program
from edgecl.program.classifiers import Encoded
from edgecl.program.injectors import Branches, NoInjector, Slot
from edgecl.program.injectors.branches import BRANCHES
from edgecl.program.learned import TensorSpec
from edgecl.program.matchers import Match, NoMatcher
from edgecl_export.compose import Stage, compose
from edgecl_export.graphs import Input, Inputs, trace

MATCH = ("match", "match_score")
ANSWER = ("scores", "feature", *MATCH)


class Declaring(Protocol):
    """A part of a program with learned tensors of its own."""

    def declare(self) -> Mapping[str, TensorSpec]: ...


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


def query_input(backbone: Backbone) -> Input:
    """Return the input `query`, what a matcher reads of an image: [b, d]."""
    return Input(("b", "d"), {"d": backbone.width})


def learned_inputs(declared: Mapping[str, TensorSpec]) -> dict[str, Input]:
    """Return the inputs that hold what was learned."""
    return {
        name: Input(item.axis_names, item.sizes, least=item.least)
        for name, item in declared.items()
    }


def read_by(learned: Mapping[str, Input], *parts: Declaring) -> dict[str, Input]:
    """Return the learned tensors that parts of a program declare."""
    return {name: learned[name] for part in parts for name in part.declare()}


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


@dataclass(frozen=True)
class Forms:
    """A program on a backbone as functions of named tensors, each the body of one graph."""

    program: Program
    backbone: Backbone
    features: tuple[str, ...]  # what a pass returns

    @property
    def classified(self) -> tuple[str, ...]:
        """Return the names of what `classify` returns."""
        return ANSWER if self.votes else ("scores", "feature")

    @property
    def votes(self) -> bool:
        """Return whether `classify` matches, from what the passes returned."""
        return self.program.late_matcher is not None

    def returned(self, which: Pass) -> dict[str, str]:
        """Return the names that `classify` has for what a pass returns."""
        return {name: f"{which}_{name}" for name in self.features}

    def fused(self, inputs: Inputs) -> Inputs:
        pixels = self.backbone.preprocess.normalise(inputs["image"])
        return self.program.infer(self.backbone.model, pixels, inputs)._asdict()

    def encode(self, inputs: Inputs) -> Inputs:
        program, backbone = self.program, self.backbone
        pixels = backbone.preprocess.normalise(inputs["image"])
        sites = program.injector.sites(inputs)
        run = backbone.model(pixels, sites, taps=program.taps, tokens=program.reads_tokens)
        return run.named()

    def match(self, inputs: Inputs) -> Inputs:
        found = self.program.matcher(inputs["query"], inputs)
        slots = self.program.injector.fill(found, inputs)
        matched = {name: slots[name] for name in matched_slots(self.program)}
        return {"match": found.index, "match_score": found.score, **matched}

    def classify(self, inputs: Inputs) -> Inputs:
        nothing = torch.zeros(0, 0)
        index = inputs.get("match", nothing.long())
        found = Match(index, inputs.get("match_score", nothing))
        passes = {
            which: Features(**{name: inputs[f"{which}_{name}"] for name in self.features})
            for which in self.program.passes
        }
        encoded = Encoded(passes.get("plain"), found, passes.get("injected"))
        outputs = self.program.classify(encoded, inputs)
        return {name: getattr(outputs, name) for name in self.classified}


def trace_program(program: Program, backbone: Backbone) -> Graphs:
    """Export all graphs of a program on a backbone."""
    features = feature_inputs(program, query_input(backbone))
    forms = Forms(program, backbone, tuple(features))
    image = {"image": image_input(backbone)}
    learned = learned_inputs(program.declare())
    passes = {
        f"{which}_{name}": per_branch(program, item) if which == "injected" else item
        for which in program.passes
        for name, item in features.items()
    }
    found = {"match": Input(("b", "k"), {}, torch.int64), "match_score": Input(("b", "k"), {})}
    matches = not isinstance(program.matcher, NoMatcher)
    dynamic, fixed = (slot_inputs(program.slots(), fixed=each) for each in (False, True))
    model, encoded = backbone.model, forms.features
    encode = trace(model, forms.encode, image | dynamic, encoded)
    match = trace_match(forms, learned) if matches else None
    head = read_by(learned, program.classifier, *([program.matcher] if forms.votes else []))
    taken = passes | (found if matches else {}) | head
    classify = trace(nn.Identity(), forms.classify, taken, forms.classified)
    return Graphs(
        fused=fuse(forms, image | learned, encode, match, classify),
        encode_dynamic=encode,
        encode_fixed=fix(forms, encode, image | dynamic, image | fixed),
        match=match,
        classify=classify,
    )


def trace_match(forms: Forms, learned: Mapping[str, Input]) -> ir.Model:
    """Return the graph of `match`: of a query, and of what is learned of matcher and injector."""
    program = forms.program
    bank = read_by(learned, program.matcher, program.injector)
    query = {"query": query_input(forms.backbone)}
    outputs = (*MATCH, *matched_slots(program))
    return trace(nn.Identity(), forms.match, query | bank, outputs)


def fix(
    forms: Forms, encode: ir.Model, dynamic: Mapping[str, Input], fixed: Mapping[str, Input]
) -> ir.Model:
    """Return the graph of `encode` whose slots have fixed sizes, of the one where they do not."""
    if fixed == dynamic:
        return encode
    if fixed.keys() != dynamic.keys():  # masks are other nodes
        return trace(forms.backbone.model, forms.encode, fixed, forms.features)
    return compose([Stage("encode", encode)], fixed, forms.features)


def fuse(
    forms: Forms,
    inputs: Mapping[str, Input],
    encode: ir.Model,
    match: ir.Model | None,
    classify: ir.Model,
) -> ir.Model:
    """Return the graph of a whole program, from those of its stages and one of the plain pass."""
    program, model = forms.program, forms.backbone.model
    if isinstance(program.injector, Branches):  # `encode` runs one of them, the whole all at once
        return trace(model, forms.fused, inputs, ANSWER)
    stages = []
    if "plain" in program.passes:
        plain = encode
        if program.slots():
            alone = replace(program, injector=NoInjector(), trained_once=())
            image = {"image": inputs["image"]}
            plain = trace(model, replace(forms, program=alone).encode, image, forms.features)
        stages.append(Stage("plain", plain, returns=forms.returned("plain")))
    if match is None:  # the same answer for every image
        match = trace_match(forms, inputs)
    stages.append(Stage("match", match, takes={"query": "plain_cls"}))
    if "injected" in program.passes:
        stages.append(Stage("injected", encode, returns=forms.returned("injected")))
    stages.append(Stage("classify", classify))
    return compose(stages, inputs, ANSWER)


def feature_inputs(program: Program, row: Input) -> dict[str, Input]:
    """Return the inputs of `classify` that are outputs of `encode`, for one pass."""
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
