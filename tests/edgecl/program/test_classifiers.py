"""Classifiers: scores and closed-form rows, against hand computation."""

import pytest
import torch
from torch import Tensor

from edgecl.backbones import Features
from edgecl.errors import MethodError
from edgecl.program.classifiers import ClosedForm, CosinePrototypes, Encoded, Linear
from edgecl.program.fitting import TaskContext
from edgecl.program.matchers import Match


def encoded(plain: Tensor | None, injected: Tensor | None, prompt: Tensor | None = None) -> Encoded:
    def features(cls: Tensor | None) -> Features | None:
        return (
            None
            if cls is None
            else Features(cls, torch.zeros_like(cls) if prompt is None else prompt)
        )

    return Encoded(
        features(plain), Match(torch.zeros(1, 1).long(), torch.ones(1, 1)), features(injected)
    )


def view(features: Tensor, labels: Tensor, classes: int) -> TaskContext:
    return TaskContext(
        index=0, classes=classes, class_rows=tuple("abc"[:classes]), labels=labels, plain=None,
        features={"feature": features}, learned={}, state={}, generator=torch.Generator(),
    )  # fmt: skip


def test_prototypes_are_means_of_raw_features() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 7.0], [0.0, 9.0]])
    labels = torch.tensor([1, 1, 0, 0, 0])
    fitted = CosinePrototypes(2, ("plain",)).fit(view(features, labels, 2))
    assert fitted.part["prototypes"].tolist() == [[[0.0, 7.0]], [[2.0, 0.0]]]
    assert fitted.part["prototypes"].dtype == torch.float32
    assert not fitted.state


def test_the_order_of_the_images_leaves_no_bit_behind() -> None:
    torch.manual_seed(0)
    features, labels = 1e3 * torch.randn(500, 8), torch.arange(500) % 3
    classifier = CosinePrototypes(4, ("plain", "injected"))
    expected = classifier.fit(view(features, labels, 3)).part["prototypes"]
    assert expected.shape == (3, 2, 4)
    for _ in range(5):
        order = torch.randperm(500)
        again = classifier.fit(view(features[order], labels[order], 3)).part
        assert torch.equal(again["prototypes"], expected)


def test_cosine_scores_by_hand() -> None:
    prototypes = torch.tensor([[[2.0, 0.0]], [[3.0, 4.0]]])  # c s d
    scores = CosinePrototypes(2, ("plain",)).scores(
        encoded(torch.tensor([[0.0, 10.0], [5.0, 0.0]]), None), {"prototypes": prototypes}
    )
    torch.testing.assert_close(scores, torch.tensor([[0.0, 0.8], [1.0, 0.6]]))


def test_passes_are_concatenated_raw_so_a_larger_norm_weighs_more() -> None:
    classifier = CosinePrototypes(2, ("plain", "injected"))
    code = encoded(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]))
    assert classifier.feature(code).tolist() == [[3, 0, 0, 4]]
    prototypes = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    scores = classifier.scores(code, {"prototypes": prototypes})
    torch.testing.assert_close(scores, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize(("on", "row"), [("cls", [1.0, 2.0]), ("prompt", [3.0, 5.0])])
def test_linear_reads_cls_or_prompt_of_the_injected_pass(on: str, row: list[float]) -> None:
    code = encoded(torch.full((1, 2), 9.0), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]]))
    head = {"head_weight": torch.eye(2), "head_bias": torch.tensor([0.0, 10.0])}
    classifier = Linear(2, on=on)  # type: ignore[arg-type]
    assert classifier.feature(code).tolist() == [row]
    assert classifier.scores(code, head).tolist() == [[row[0], row[1] + 10]]


@pytest.mark.parametrize(
    ("classifier", "closed_form"),
    [(CosinePrototypes(4, ("plain",)), True), (Linear(4, on="cls"), False)],
)
def test_rows_are_appended_on_the_class_axis(
    classifier: CosinePrototypes | Linear, closed_form: bool
) -> None:
    assert isinstance(classifier, ClosedForm) == closed_form
    for item in classifier.declare().values():
        assert item.concat_axis == "c"
        assert item.dim == 0
        assert item.shape(classes=5)[0] == 5
        assert item.trained != closed_form


def test_what_the_program_does_not_make() -> None:
    plain = encoded(torch.zeros(1, 2), None)
    with pytest.raises(
        MethodError, match=r"none of the pass injected\. Set `passes` of the program"
    ):
        plain.features("injected")
    with pytest.raises(MethodError, match=r"none of the taps\. Set `taps`"):
        plain.taps("plain")
    with pytest.raises(
        MethodError, match=r"none of the tokens\. Set `reads_tokens` of the program"
    ):
        plain.tokens("plain")
