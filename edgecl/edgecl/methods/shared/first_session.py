"""Adaptation on the first task: what is injected is trained once, then frozen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.methods.base import Batch, Method, Trains
from edgecl.methods.config import ConfigT, MethodConfig
from edgecl.program import Pass, Program, Tensors, TensorSpec
from edgecl.program.classifiers import Classifier
from edgecl.program.injectors import AdapterStack, Injector, ScaleShiftStack, SharedPrompts
from edgecl.program.learned import ones, uniform


class FirstSession(Method[ConfigT]):
    """A method that trains its injection on the first task, by a cosine head that is then dropped.

    The head has a learned scale, as in APER (Zhou et al., IJCV 2024) and what follows it.

    Attributes:
        fixed_scale: of the head; 0 for a learned one, from 1 on.
    """

    fixed_scale: float = 0.0
    trains: Trains = "first"
    augmentation: ClassVar[str] = "pilot"

    def local(self) -> dict[str, TensorSpec]:
        """Return the head; a method that trains nothing has none."""
        if self.trains == "never":
            return {}
        width = self.spec.feature_dim
        head = {"session_weight": TensorSpec("c d", {"d": width}, init=uniform(width**-0.5))}
        if not self.fixed_scale:
            head["session_scale"] = TensorSpec("one", {"one": 1}, init=ones)
        return head

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Return the cross-entropy of the cosine head."""
        feature = F.normalize(batch.encoded.features("injected").cls, dim=-1)
        cosine = feature @ F.normalize(learned["session_weight"], dim=-1).T  # b c
        scale = self.fixed_scale or learned["session_scale"]
        return F.cross_entropy(scale * cosine, batch.labels)


@dataclass(frozen=True)
class SessionConfig(MethodConfig):
    """What the first session trains, if anything."""

    first_session: Literal["adapter", "ssf", "vpt", "vpt-shallow", "none"] = "adapter"
    rank: int = 64  # r, hidden units of an adapter
    scale: float = 0.1  # s, of the adapter's output
    length: int = field(default=5, kw_only=True)  # p, rows of a prompt of vpt and vpt-shallow


SessionConfigT = TypeVar("SessionConfigT", bound=SessionConfig)


class OneBranch(FirstSession[SessionConfigT]):
    """One branch with what the first session trained, or plain with `first_session=none`."""

    options: ClassVar[tuple[str, ...]] = ("scale",)

    def task_end(self) -> str:
        if self.trains != "never":
            return "what adapts it is trained on the first one. Give --set first_session=none."
        return super().task_end()

    def adapted(self, classifier: Callable[[Pass], Classifier], taps: int = 0) -> Program:
        """Return the program of a classifier on the features of the one pass."""
        injector = self._injector()
        if injector is None:
            self.trains = "never"
            return self.compose(classifier=classifier("plain"), passes=("plain",), taps=taps)
        return self.compose(
            injector=injector,
            classifier=classifier("injected"),
            passes=("injected",),
            taps=taps,
            trained_once=tuple(injector.declare()),
        )

    def _injector(self) -> Injector | None:
        config, spec = self.config, self.spec
        if config.first_session == "adapter":
            return AdapterStack(spec.width, spec.depth, config.rank, config.scale)
        if config.first_session == "ssf":
            return ScaleShiftStack(spec.width, spec.mlp, spec.depth)
        if config.first_session == "vpt":
            return SharedPrompts(spec.width, config.length, spec.depth)
        if config.first_session == "vpt-shallow":
            return SharedPrompts(spec.width, config.length)
        return None
