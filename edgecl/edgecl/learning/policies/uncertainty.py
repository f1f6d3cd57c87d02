"""How sure a model is of its images, by which a rehearsal memory chooses them.

Serra and Buettner, ICLR 2025, https://openreview.net/forum?id=f65RuQgVlp; the public code was read
(MLO-lab/online-FCL). The Bregman information of an image is the mean over its views of the
log-sum-exp of their logits, less that of the mean logits: 0 where all views have the same logits up
to a constant, and larger the more they differ. A memory keeps the images of LEAST information.

Differs from the public code: an image is scored once, after its task, and not in every batch of a
stream, when its class is full. What is scored is the whole task and not a full class only.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.policies.disturbing import VIEWS, disturb, keys_of
from edgecl.learning.task_images import TaskImages
from edgecl.program.classifiers import Encoded
from edgecl.program.learned import Tensors
from edgecl_deploy.progress import Reporter

CHUNK = 256  # images that are disturbed at once


def bregman_information(logits: Float[Tensor, "v n c"]) -> Float[Tensor, " n"]:
    """Return mean_i LSE(z_i) - LSE(mean_i z_i) over the views i, in double precision."""
    logits = logits.double()
    return logits.logsumexp(dim=-1).mean(dim=0) - logits.mean(dim=0).logsumexp(dim=-1)


def uncertainty(images: TaskImages, learned: Tensors, seed: int) -> Float[Tensor, " n"]:
    """Return the Bregman information of a task's images.

    Args:
        learned: after the task.
        seed: of the run.
    """
    encoder = images.encoder
    # Nobody asks for the features of a disturbed image again.
    quiet = replace(encoder, reporter=Reporter(), cache=FeatureCache(None, encoder.backbone.digest))
    classifier = encoder.method.program.classifier

    def scores(encoded: Encoded, learned: Tensors) -> Tensors:
        return {"scores": classifier.scores(encoded, learned)}

    found = []
    with encoder.reporter.bar("uncertainty", len(images)) as advance:
        for start in range(0, len(images), CHUNK):
            here = slice(start, min(start + CHUNK, len(images)))
            pixels = torch.from_numpy(images.images[here])
            keys = keys_of(pixels, seed)
            views = []
            for view in range(len(VIEWS)):
                seen = disturb(pixels, keys, view).contiguous().numpy()
                some = replace(images, images=seen, labels=images.labels[here], encoder=quiet)
                views.append(some.encode(scores, learned)["scores"])
            found.append(bregman_information(torch.stack(views)))
            advance(len(pixels))
    return torch.cat(found)
