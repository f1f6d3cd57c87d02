"""Several injected passes: every image runs once per branch of a bank."""

from dataclasses import dataclass, replace

from edgecl.backbones.sites import Injection
from edgecl.program.injectors.base import Injector, Slot
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers import Match

BRANCHES = "t"  # the axis of the branches


@dataclass(frozen=True)
class Branches:
    """A bank of injections on the axis t: features are [b, t, d], a row for each of them.

    `fill` gives the whole bank. In one run the batch is repeated t times and each run of b images
    meets its branch (`backbones.sites`), so no image has its own copy of an injection. `slots` are
    those of a single branch: the staged form runs `encode` once for each.

    Attributes:
        inner: the injection of one branch; all its slots are learned tensors fed as they are.
        count: the number of branches, which every task replaces; None: each task appends one.
    """

    inner: Injector
    count: int | None = None

    @property
    def site(self) -> str:
        return self.inner.site

    def declare(self) -> dict[str, TensorSpec]:
        fixed = {} if self.count is None else {BRANCHES: self.count}
        return {
            name: replace(
                item,
                axes=f"{BRANCHES} {item.axes}",
                sizes={**fixed, **item.sizes},
                concat_axis=BRANCHES if self.count is None else None,
                start={**({} if fixed else {BRANCHES: 1}), **item.start},
            )
            for name, item in self.inner.declare().items()
        }

    def slots(self) -> dict[str, Slot]:
        return self.inner.slots()

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        return {name: learned[name] for name in self.declare()}

    def sites(self, slots: Tensors) -> Injection:
        return self.inner.sites(slots)
