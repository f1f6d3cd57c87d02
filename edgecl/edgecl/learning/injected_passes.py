"""The injected passes of test images, kept for the next evaluation.

What is injected often stays as it is when a task is learned: an adapter of the first session, the
adapters of former tasks. A test image need not run through it again. A pass is known by what is
injected, tensor by tensor, so a pass that a task has changed runs again.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch

from edgecl.backbones.vit import Features
from edgecl.program import Program
from edgecl.program.injectors import Branches
from edgecl.program.learned import Tensors
from edgecl.program.matchers import NoMatcher

Run = Callable[[int | None], Features]  # through one branch, or the only one


def same_for_all_images(program: Program) -> bool:
    """Return whether what is injected is the same whatever the image, and the pass can be kept.

    Not where the classifier reads all tokens after the last block: they are too many.
    """
    return (
        "injected" in program.passes
        and isinstance(program.matcher, NoMatcher)
        and not program.reads_tokens
        and all(slot.source == "learned" for slot in program.injector.slots().values())
    )


@dataclass(eq=False)
class InjectedPasses:
    """Features of sets of test images by what was injected; former injections are dropped."""

    program: Program
    _slots: dict[int, Tensors] = field(default_factory=dict)  # of each version of a branch
    _features: dict[Hashable, dict[int, Features]] = field(default_factory=dict)
    _last: tuple[Tensors, list[int]] | None = None
    _made: int = 0

    def features(self, images: Hashable, learned: Tensors, run: Run) -> Features:
        """Return the features of a set of images, from what is kept as far as it goes.

        Args:
            images: what the set is known by.
            learned: of all tasks so far.
            run: computes the features of all images of the set by one branch.
        """
        versions = self._versions(learned)
        known = self._features.setdefault(images, {})
        for version in known.keys() - set(versions):
            del known[version]
        branches = isinstance(self.program.injector, Branches)
        for branch, version in enumerate(versions):
            if version not in known:
                known[version] = run(branch if branches else None)
        found = [known[version] for version in versions]
        if not branches:
            return found[0]
        columns = zip(*(each.named().values() for each in found), strict=True)
        stacked = (torch.stack(column, dim=1) for column in columns)  # b t ...
        return Features(**dict(zip(found[0].named(), stacked, strict=True)))

    def _versions(self, learned: Tensors) -> list[int]:
        """Return the version of every branch, a new one where its injection has changed."""
        if self._last is not None and self._last[0] is learned:
            return self._last[1]
        versions = [self._version(slots) for slots in self._branches(learned)]
        self._slots = {version: self._slots[version] for version in versions}
        self._last = learned, versions
        return versions

    def _version(self, slots: Tensors) -> int:
        for version, known in self._slots.items():
            if all(torch.equal(slots[name], known[name]) for name in slots):
                return version
        self._made += 1
        self._slots[self._made] = {name: tensor.clone() for name, tensor in slots.items()}
        return self._made

    def _branches(self, learned: Tensors) -> Sequence[Tensors]:
        """Return what is injected, of each branch."""
        match = self.program.match(torch.zeros(1, 0), learned)
        slots = self.program.injector.fill(match, learned)
        if not isinstance(self.program.injector, Branches):
            return [slots]
        count = len(next(iter(slots.values())))
        return [{name: bank[at] for name, bank in slots.items()} for at in range(count)]
