"""The choices of how a program runs: its form, and the sizes of its slots."""

from typing import TYPE_CHECKING

from edgecl_deploy.errors import OptionError, shown

if TYPE_CHECKING:
    from edgecl_deploy.engines import Engine

FORMS = ("fused", "staged")
SLOTS = ("dynamic", "fixed")


def check_form(form: str, slots: str, engine: "Engine") -> None:
    """Check that there is such a form, and that the engine can run it.

    Args:
        form: `fused` or `staged`.
        slots: `dynamic` or `fixed`.
        engine: What shall run it.

    Raises:
        OptionError: There is no such form or mode, or the engine cannot run it.
    """
    if form not in FORMS:
        raise OptionError("form must be fused or staged", shown(form), "Use form='fused'.")
    if slots not in SLOTS:
        raise OptionError("slots must be dynamic or fixed", shown(slots), "Use slots='dynamic'.")
    if form == "fused" and slots == "fixed":
        raise OptionError(
            "fixed slots belong to the staged form", "form='fused'", "Add form='staged'."
        )
    able = engine.capabilities()
    if form == "fused" and not able.dynamic_shapes:
        raise OptionError(
            "the fused form needs an engine with dynamic shapes",
            "one with fixed shapes",
            "Use form='staged' and slots='fixed'.",
        )
    if slots == "dynamic" and form == "staged" and not able.empty_tensors:
        raise OptionError(
            "dynamic slots need an engine that takes empty tensors",
            "one that does not",
            "Use slots='fixed'.",
        )
