"""Channels: signed releases as plain static files, by which devices update themselves.

Nothing here imports the learner or the exporter: a machine that signs needs neither torch nor onnx.
"""

from typing import TYPE_CHECKING

from edgecl_deploy.lazy import lazily

if TYPE_CHECKING:
    from edgecl_export.channel.manifests import Rollout
    from edgecl_export.channel.publish import Published
    from edgecl_export.channel.renew import Refreshed
    from edgecl_export.channel.repository import Repository
    from edgecl_export.channel.serve import Server
    from edgecl_export.channel.status import Status
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Published": "publish",
            "Refreshed": "renew",
            "Repository": "repository",
            "Rollout": "manifests",
            "Server": "serve",
            "Status": "status",
        },
    )

__all__ = ["Published", "Refreshed", "Repository", "Rollout", "Server", "Status"]
