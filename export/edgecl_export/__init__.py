"""Export an edgecl backbone once to ONNX, and what it learns as small weight packs.

```python
export_bundle(learner, "bundle")
export_packs(learner, "packs")
export_release("packs", "release", "bundle")
verify(learner, "bundle", "release")
```

A learner, or the folder of its run. The names below load their modules when they are first used:
`edgecl_export.channel`, for machines that sign releases, needs neither torch nor onnx.
"""

from typing import TYPE_CHECKING

from edgecl_deploy.lazy import lazily
from edgecl_export.extras import explain_missing

if TYPE_CHECKING:
    from edgecl_export.bundle import export_bundle
    from edgecl_export.errors import ExportError
    from edgecl_export.half import export_float16
    from edgecl_export.inspection import inspect
    from edgecl_export.licence import Licensing
    from edgecl_export.measuring import evaluate_release
    from edgecl_export.pack import export_packs
    from edgecl_export.quantize.variant import quantize_bundle
    from edgecl_export.release import export_release
    from edgecl_export.text import TextExport, export_text
    from edgecl_export.verification import Verification, verify

    __version__: str
else:
    _get, __dir__ = lazily(
        __name__,
        {
            "ExportError": "errors",
            "Licensing": "licence",
            "TextExport": "text",
            "Verification": "verification",
            "evaluate_release": "measuring",
            "export_bundle": "bundle",
            "export_float16": "half",
            "export_packs": "pack",
            "export_release": "release",
            "export_text": "text",
            "inspect": "inspection",
            "quantize_bundle": "quantize.variant",
            "verify": "verification",
        },
    )

    def __getattr__(name):
        with explain_missing():
            return _get(name)


__all__ = [
    "ExportError",
    "Licensing",
    "TextExport",
    "Verification",
    "__version__",
    "evaluate_release",
    "export_bundle",
    "export_float16",
    "export_packs",
    "export_release",
    "export_text",
    "inspect",
    "quantize_bundle",
    "verify",
]
