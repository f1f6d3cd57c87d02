"""The choices of how a program runs: its form, the sizes of its inputs, its precision."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgecl_deploy.errors import OptionError, shown
from edgecl_deploy.manifest.precisions import PRECISIONS

if TYPE_CHECKING:
    from edgecl_deploy.engines import Engine

FORMS = ("fused", "staged")
SLOTS = ("dynamic", "fixed")
AUTO = "auto"  # leaves a choice to what was measured
MAX_BATCH = 1024


@dataclass(frozen=True)
class Mode:
    """How a program runs.

    Attributes:
        form: `fused` (one graph) or `staged` (encode, match, classify).
        slots: `dynamic` or, for engines with fixed shapes, `fixed` (staged form only).
        precision: `float32`, or a variant that the bundle and the release have.
        batch: Images of every run; fewer are filled up. None: any number.
    """

    form: str = FORMS[0]
    slots: str = SLOTS[0]
    precision: str = PRECISIONS[0]
    batch: int | None = None

    @classmethod
    def fitting(cls, engine: "Engine", wanted: "Mode") -> "Mode":
        """Return a mode with its form and its slots chosen where they are `auto`.

        Fused where the engine takes any size, else staged; slots are fixed where it must be.

        Args:
            engine: What shall run it.
            wanted: The mode, of which `auto` may be the form or the slots.
        """
        able, form, slots = engine.capabilities(), wanted.form, wanted.slots
        if form == AUTO:
            form = "fused" if able.dynamic_shapes and slots != "fixed" else "staged"
        if slots == AUTO:
            slots = "dynamic" if form == "fused" or able.empty_tensors else "fixed"
        return replace(wanted, form=form, slots=slots)

    def check(self, engine: "Engine") -> None:
        """Check that there is such a mode, and that the engine can run it.

        Args:
            engine: What shall run it.

        Raises:
            OptionError: There is no such mode, or the engine cannot run it.
        """
        self._check_values()
        able = engine.capabilities()
        if self.form == "fused" and not able.dynamic_shapes:
            raise OptionError(
                "the fused form needs an engine with dynamic shapes",
                "one with fixed shapes",
                "Use form='staged' and slots='fixed'.",
            )
        if self.slots == "dynamic" and self.form == "staged" and not able.empty_tensors:
            raise OptionError(
                "dynamic slots need an engine that takes empty tensors",
                "one that does not",
                "Use slots='fixed'.",
            )
        if self.precision not in able.precisions:
            raise OptionError(
                f"the engine must run precision={self.precision!r} on this device",
                f"one that runs {', '.join(able.precisions)}",
                "Leave precision out, or use another engine (`edgecl-device doctor`).",
            )

    def _check_values(self) -> None:
        if self.form not in FORMS:
            raise OptionError("form must be fused or staged", shown(self.form), "Use form='fused'.")
        if self.slots not in SLOTS:
            raise OptionError(
                "slots must be dynamic or fixed", shown(self.slots), "Use slots='dynamic'."
            )
        if self.form == "fused" and self.slots == "fixed":
            raise OptionError(
                "fixed slots belong to the staged form", "form='fused'", "Add form='staged'."
            )
        if self.precision not in PRECISIONS:
            raise OptionError(
                f"precision must be one of {', '.join(PRECISIONS)}",
                shown(self.precision),
                "Leave precision out for float32.",
            )
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise OptionError(
                f"batch must be 1 to {MAX_BATCH}", str(self.batch), "Leave batch out for any size."
            )
