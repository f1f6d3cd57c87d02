"""Runs of a fixed number of images, for engines that compile for it."""

from dataclasses import dataclass

import numpy as np

from edgecl_deploy.programs import Arrays, Bound, Form, Scores, joined


@dataclass(frozen=True)
class PaddedForm:
    """A program whose sessions always run the same number of images.

    Attributes:
        form: The program with its sessions.
        size: How many images they run.
    """

    form: Form
    size: int

    def bind(self, learned: Arrays) -> "Padded":
        """Join it with learned tensors."""
        return Padded(self.form.bind(learned), self.size)


@dataclass(frozen=True)
class Padded:
    """A program that always runs the same number of images.

    Attributes:
        bound: What runs them.
        size: How many; black images fill up the last run, and their scores are dropped.
    """

    bound: Bound
    size: int

    def run(self, images: np.ndarray) -> Scores:
        """Run the program.

        Args:
            images: uint8 [b, h, w, 3].
        """
        runs = [self._once(images[i : i + self.size]) for i in self._starts(len(images))]
        return joined(runs)

    def _starts(self, count: int) -> range:
        return range(0, max(count, 1), self.size)

    def _once(self, images: np.ndarray) -> Scores:
        count = len(images)
        if count == self.size:
            return self.bound.run(images)
        full = np.zeros((self.size, *images.shape[1:]), images.dtype)
        full[:count] = images
        out = self.bound.run(full)
        return Scores(
            out.scores[:count], out.feature[:count], out.match[:count], out.match_score[:count]
        )
