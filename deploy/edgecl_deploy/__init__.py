"""The device runtime of edgecl: a bundle, a release, labels out; no torch.

```python
classifier = Classifier.open("bundle", "release")
for prediction in classifier.predict(["a.jpg", "b.jpg"]):
    ...
```
"""

from importlib.metadata import version

from edgecl_deploy.errors import DeployError, ImageError
from edgecl_deploy.files import read_bundle, read_release
from edgecl_deploy.format import Bundle, Pack, Release
from edgecl_deploy.loaded import Prediction, SelfTest
from edgecl_deploy.programs import Scores
from edgecl_deploy.runtime import Classifier
from edgecl_deploy.text import TextEncoder

__all__ = [
    "Bundle",
    "Classifier",
    "DeployError",
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
__version__ = version("edgecl-deploy")
