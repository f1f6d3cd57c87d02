"""The device runtime of edgecl: a bundle, a release, labels out; no torch.

```python
classifier = Classifier.open("bundle", "release")
for prediction in classifier.predict(["a.jpg", "b.jpg"]):
    ...
```

A public name is imported when it is first used, so the command line starts without numpy.
"""

import os
from typing import TYPE_CHECKING

from edgecl_deploy.lazy import lazily

# Since 1.29 onnxruntime makes an identifier in the home folder and sends events when it is
# imported; the variable counts only if it is set before (docs/privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edgecl_deploy.drift.verdict import Drift
    from edgecl_deploy.enrol.enrolling import Enrolment
    from edgecl_deploy.enrol.listing import Enrolled
    from edgecl_deploy.errors import DeployError, ImageError
    from edgecl_deploy.files import read_bundle, read_release
    from edgecl_deploy.format import Bundle, Pack, Release
    from edgecl_deploy.loaded import Prediction, SelfTest
    from edgecl_deploy.programs import Scores
    from edgecl_deploy.runtime import Classifier
    from edgecl_deploy.text import TextEncoder

    __version__: str
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Bundle": "format",
            "Classifier": "runtime",
            "DeployError": "errors",
            "Drift": "drift.verdict",
            "Enrolled": "enrol.listing",
            "Enrolment": "enrol.enrolling",
            "ImageError": "errors",
            "Pack": "format",
            "Prediction": "loaded",
            "Release": "format",
            "Scores": "programs",
            "SelfTest": "loaded",
            "TextEncoder": "text",
            "read_bundle": "files",
            "read_release": "files",
        },
    )

__all__ = [
    "Bundle",
    "Classifier",
    "DeployError",
    "Drift",
    "Enrolled",
    "Enrolment",
    "ImageError",
    "Pack",
    "Prediction",
    "Release",
    "Scores",
    "SelfTest",
    "TextEncoder",
    "__version__",
    "read_bundle",
    "read_release",
]
