"""What the server takes, as an OpenAPI document: of the protocol, and of its own verbs.

The protocol's own file names each path with a version, in a form that no tool expands, and knows
none of the extensions.
"""

TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_PARAMETERS = {
    "type": "object",
    "properties": {
        "binary_data_size": NUMBER,
        "binary_data_output": FLAG,
        "content_type": TEXT,
        "classification": NUMBER,
        "timeout": NUMBER,
        "top_k": NUMBER,
    },
}
_DATA = {"type": "array", "items": {"anyOf": [TEXT, FLAG, {"type": "number"}, {"type": "array"}]}}
_INPUT = {
    "name": {"type": "string", "enum": ["image", "other", ""]},
    "datatype": {"type": "string", "enum": ["BYTES", "UINT8", "FP32", "x"]},
    "shape": {"type": "array", "items": NUMBER},
    "parameters": _PARAMETERS,
    "data": _DATA,
}
_OUTPUTS = ["label", "score", "known", "p", "set", "error", "scores", "feature", "match", "x"]
_OUTPUT = {"name": {"type": "string", "enum": _OUTPUTS}, "parameters": _PARAMETERS}
_REQUEST = {
    "id": TEXT,
    "parameters": _PARAMETERS,
    "inputs": {"type": "array", "items": {"type": "object", "properties": _INPUT}},
    "outputs": {"type": "array", "items": {"type": "object", "properties": _OUTPUT}},
}
_CLASS = {
    "name": TEXT,
    "images": {"type": "array", "items": TEXT},
    "note": TEXT,
    "keep_images": FLAG,
    "force": FLAG,
    "dry_run": FLAG,
    "by_name": FLAG,
    "templates": {"type": "array", "items": TEXT},
}
_MODEL = {"type": "string", "enum": ["edgecl", "edgecl.pixels", "other"]}


def operation(body: dict | None = None, **parameters: dict) -> dict:
    """An operation that is answered by JSON, whatever the status."""
    found: dict = {
        "responses": {"default": {"description": "", "content": {"application/json": {}}}},
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": schema}
            for name, schema in parameters.items()
        ],
    }
    if body is not None:
        schema = {"type": "object", "properties": body, "required": [*body][-1:]}
        found["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return found


def document() -> dict:
    """The document."""
    paths = {path: {"get": operation()} for path in (
        "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats",
        "/edgecl/v1/status", "/edgecl/v1/drift",
    )}  # fmt: skip
    paths["/v2/repository/index"] = {"post": operation({"ready": FLAG})}
    for act in ("load", "unload"):
        path = f"/v2/repository/models/{{model}}/{act}"
        paths[path] = {"post": operation({"parameters": _PARAMETERS}, model=_MODEL)}
    for start, more in (
        ("/v2/models/{model}", {}),
        ("/v2/models/{model}/versions/{version}", {"version": TEXT}),
    ):
        for end in ("", "/ready", "/config", "/stats"):
            paths[start + end] = {"get": operation(model=_MODEL, **more)}
        paths[f"{start}/infer"] = {"post": operation(_REQUEST, model=_MODEL, **more)}
    paths["/edgecl/v1/enrolled"] = {"get": operation(), "post": operation(_CLASS)}
    paths["/edgecl/v1/enrolled/{name}"] = {"delete": operation(name=TEXT)}
    return {"openapi": "3.0.3", "info": {"title": "edgecl", "version": "1"}, "paths": paths}
