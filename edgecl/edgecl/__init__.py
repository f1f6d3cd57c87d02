"""Continual learning on a frozen vision backbone, made to reach the device: the learner.

```python
stream = load_stream("emoji-demo")
learner = new_learner("run", "layup", load_backbone("vit-s14"), stream)
summary = learn_stream(learner, stream)
learn_folder(open_learner("run"), "images/new-task")
```

The names below load their modules when they are first used, so `import edgecl` alone is light.
"""

from typing import TYPE_CHECKING

from edgecl_deploy.lazy import lazily

if TYPE_CHECKING:
    from edgecl.backbones import (
        Backbone,
        Clip,
        fetch_weights,
        list_backbones,
        load_backbone,
        load_clip,
    )
    from edgecl.errors import EdgeclError
    from edgecl.learning.labelled import Measured, evaluate_folder
    from edgecl.learning.learner import Learner
    from edgecl.learning.records import TaskRecord
    from edgecl.learning.runs import Run
    from edgecl.learning.summary import Summary
    from edgecl.methods import Method, MethodConfig, build_method, register
    from edgecl.methods import methods as list_methods
    from edgecl.optim import TrainConfig
    from edgecl.program import Program
    from edgecl.session import (
        choose_compute,
        learn_folder,
        learn_stream,
        new_learner,
        open_learner,
        resume,
    )
    from edgecl.streams import Stream, Task, fetch_openemoji10, load_stream, register_stream, unpack
    from edgecl.streams import stream_names as list_streams

    __version__: str
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Backbone": "backbones",
            "Clip": "backbones",
            "EdgeclError": "errors",
            "Learner": "learning.learner",
            "Measured": "learning.labelled",
            "Method": "methods",
            "MethodConfig": "methods",
            "Program": "program",
            "Run": "learning.runs",
            "Stream": "streams",
            "Summary": "learning.summary",
            "Task": "streams",
            "TaskRecord": "learning.records",
            "TrainConfig": "optim",
            "build_method": "methods",
            "choose_compute": "session",
            "evaluate_folder": "learning.labelled",
            "fetch_openemoji10": "streams",
            "fetch_weights": "backbones",
            "learn_folder": "session",
            "learn_stream": "session",
            "list_backbones": "backbones",
            "list_methods": "methods:methods",
            "list_streams": "streams:stream_names",
            "load_backbone": "backbones",
            "load_clip": "backbones",
            "load_stream": "streams",
            "new_learner": "session",
            "open_learner": "session",
            "register": "methods",
            "register_stream": "streams",
            "resume": "session",
            "unpack": "streams",
        },
    )


__all__ = [
    "Backbone",
    "Clip",
    "EdgeclError",
    "Learner",
    "Measured",
    "Method",
    "MethodConfig",
    "Program",
    "Run",
    "Stream",
    "Summary",
    "Task",
    "TaskRecord",
    "TrainConfig",
    "__version__",
    "build_method",
    "choose_compute",
    "evaluate_folder",
    "fetch_openemoji10",
    "fetch_weights",
    "learn_folder",
    "learn_stream",
    "list_backbones",
    "list_methods",
    "list_streams",
    "load_backbone",
    "load_clip",
    "load_stream",
    "new_learner",
    "open_learner",
    "register",
    "register_stream",
    "resume",
    "unpack",
]
