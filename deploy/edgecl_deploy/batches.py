"""Runs of a bounded number of images, for engines that take no other."""

from dataclasses import dataclass

import numpy as np

from edgecl_deploy.programs import Arrays, Bound, Form, Scores, in_parts


@dataclass(frozen=True)
class PaddedForm:
    """A program whose sessions run a bounded number of images.

    Attributes:
        form: The program with its sessions.
        least: How many they run at least.
        most: How many they run at most; None for any number.
    """

    form: Form
    least: int
    most: int | None

    def bind(self, learned: Arrays) -> "Padded":
        """Join it with learned tensors."""
        return Padded(self.form.bind(learned), self.least, self.most)


@dataclass(frozen=True)
class Padded:
    """A program that runs a bounded number of images at a time.

    Attributes:
        bound: What runs them.
        least: How many at least; black images fill up the last run, and their scores are dropped.
        most: How many at most; None for any number.
    """

    bound: Bound
    least: int
    most: int | None

    def run(self, images: np.ndarray) -> Scores:
        """Run the program.

        Args:
            images: uint8 [b, h, w, 3].
        """
        return in_parts(images, self.most, self._once)

    def _once(self, images: np.ndarray) -> Scores:
        count = len(images)
        if count >= self.least:
            return self.bound.run(images)
        full = np.zeros((self.least, *images.shape[1:]), images.dtype)
        full[:count] = images
        out = self.bound.run(full)
        return Scores(
            out.scores[:count], out.feature[:count], out.match[:count], out.match_score[:count]
        )
