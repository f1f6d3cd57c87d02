"""What a method was held against."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Status:
    """How far a method agrees with its public code; without a figure its tests alone hold it.

    Attributes:
        steps: the largest difference of a tensor after equal steps from an equal start on equal
            images, relative to its largest entry (benchmarks/results/mathematics.md).
        points: the percentage points by which A_last is above that of the public code, on the same
            backbone, images and order, mean of the seeds (benchmarks/results/fidelity.md).
        public: whether there is public code.
    """

    steps: float | None = None
    points: float | None = None
    public: bool = True

    def __str__(self) -> str:
        """Return the words of tables."""
        held = []
        if self.steps is not None:
            held.append(f"equal steps ({self.steps:.0e})".replace("e-0", "e-"))
        if self.points is not None:
            held.append(f"compared accuracy ({self.points:+.1f})")
        return ", ".join(held) or ("tested" if self.public else "tested, no public code")
