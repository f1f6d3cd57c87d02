"""Training on every task, each on its own rows of the classifier."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.methods.base import Batch, Method
from edgecl.program.learned import Tensors


class EveryTask(Method):
    """A method that trains on every task; its classifier scores what is trained."""

    def trains(self, task: int) -> bool:
        return True

    def loss(self, batch: Batch, learned: Tensors) -> Float[Tensor, ""]:
        """Cross-entropy over the task's rows: logits of other tasks are masked."""
        return F.cross_entropy(self.current_logits(batch, learned), batch.labels)

    def current_logits(self, batch: Batch, learned: Tensors) -> Float[Tensor, "b c"]:
        """Score the rows of the task that is learned, which are the last."""
        return self.classifier.scores(batch.encoded, learned)[:, -batch.classes :]
