"""The device runtime of edgecl: a bundle, a release, labels out; no torch.

```python
classifier = Classifier.open("bundle", "release")
for prediction in classifier.predict(["a.jpg", "b.jpg"]):
    ...
```

A public name is imported when it is first used, so the command line starts without numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecl_deploy.errors import DeployError, ImageError
    from edgecl_deploy.files import read_bundle, read_release
    from edgecl_deploy.format import Bundle, Pack, Release
    from edgecl_deploy.loaded import Prediction, SelfTest
    from edgecl_deploy.programs import Scores
    from edgecl_deploy.runtime import Classifier
    from edgecl_deploy.text import TextEncoder

    __version__: str

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
_MODULES = {
    "Bundle": "format",
    "Classifier": "runtime",
    "DeployError": "errors",
    "ImageError": "errors",
    "Pack": "format",
    "Prediction": "loaded",
    "Release": "format",
    "Scores": "programs",
    "SelfTest": "loaded",
    "TextEncoder": "text",
    "read_bundle": "files",
    "read_release": "files",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or read the version that is installed.

    Raises:
        AttributeError: There is no such name.
    """
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("edgecl-deploy")
    elif name in _MODULES:
        value = getattr(import_module(f"edgecl_deploy.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
