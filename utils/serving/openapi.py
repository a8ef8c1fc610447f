"""GET /openapi.json: describes the server's requests and answers in OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.serving.refusal import Limits

# Statuses of refusals that all routes share.
_REFUSALS = {
    "400": "The request, or an image in it, cannot be read.",
    "401": "The key is missing or wrong.",
    "404": "No such network.",
    "408": "The request took too long to arrive.",
    "413": "The request, or an image in it, is too large, or it has too many images.",
    "415": "The content type is not supported.",
    "429": "Too many requests at the same time: try again.",
    "500": "The network's output is not finite.",
    "503": "A part of the server failed or ran out of memory: try again.",
}
# An image file of one pixel, orange, for examples.
_EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP438AAAAQBAYD718vxAAAAAElFTkSuQmCC"
_IMAGES = {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}, "minItems": 1}
_SHAPE = {"type": "array", "items": {"type": "integer"}}
_PREDICTION = {
    "type": "object",
    "properties": {
        "image": {"type": "string"},
        "score": {"type": "array", "items": {"type": "number"}},
        "class": {"type": "array", "items": {"type": "integer"}},
        "class_name": {"type": "array", "items": {"type": ["string", "null"]}},
    },
    "required": ["image", "score"],
}
_TENSOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": ["BYTES", "UINT8", "FP32"]},
        "shape": _SHAPE,
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    },
    "required": ["name", "datatype", "shape"],
}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _json(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **more}}


def _operation(
    summary: str, content: dict[str, Any], *parameters: str, body: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """An operation; if it has a body, also with the refusals for bodies."""
    error = {"$ref": "#/components/schemas/Refusal"}
    statuses = [*_REFUSALS] if body else ["401", *(["404"] if parameters else [])]
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    responses |= {status: {"description": _REFUSALS[status], "content": _json(error)} for status in statuses}
    found: dict[str, Any] = {"summary": summary, "responses": responses}
    path = [{"$ref": f"#/components/parameters/{name}"} for name in parameters]
    if path or more:
        found["parameters"] = [*path, *more.get("parameters", [])]
    if body:
        found["requestBody"] = {"required": True, "content": body}
    return found


def _predict(*parameters: str) -> dict[str, Any]:
    at_least_1 = {"type": "integer", "minimum": 1}
    topk = {"name": "topk", "in": "query", "schema": at_least_1}
    prediction = {"type": "array", "items": {"type": "object"}}
    answer = {
        "anyOf": [
            _object(
                ["model", "predictions"], model={"type": "string"}, predictions={"type": "array", "items": _PREDICTION}
            ),
            _object(
                ["msg", "results", "status"],
                msg={"type": "string"},
                results=_object(["prediction", "elapse"], prediction=prediction, elapse={"type": "number"}),
                status={"type": "string"},
            ),
        ]
    }
    as_array = _object(
        ["images", "revert_params"],
        images={"type": "string", "contentEncoding": "base64"},
        revert_params=_object(
            ["shape", "dtype"], shape=_SHAPE, dtype={"enum": ["uint8", "float16", "float32", "float64"]}
        ),
        top_k=at_least_1 | {"type": ["integer", "null"]},
    )
    as_files = _object(["images"], images=_IMAGES, top_k=at_least_1 | {"type": ["integer", "null"]})
    form = {
        "type": "object",
        "properties": {"image": {"type": "string", "contentMediaType": "application/octet-stream"}},
        "required": ["image"],
    }
    body = {
        **_json({"anyOf": [as_files, as_array]}, example={"images": [_EXAMPLE], "top_k": 1}),
        "multipart/form-data": {"schema": form},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    return _operation("Classify images", _json(answer), *parameters, body=body, parameters=[topk])


def _infer(*parameters: str) -> dict[str, Any]:
    wanted = _object(["name"], name={"enum": ["probabilities", "logits"]}, parameters={"type": "object"})
    request = _object(
        ["inputs"],
        id={"type": "string"},
        parameters={"type": "object"},
        inputs={"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
        outputs={"type": "array", "items": wanted},
    )
    answer = _object(
        ["model_name", "outputs"],
        model_name={"type": "string"},
        model_version={"type": "string"},
        id={"type": "string"},
        outputs={"type": "array", "items": _TENSOR},
    )
    content = {**_json(answer), "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    example = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [_EXAMPLE]}]}
    body = _json(request, example=example)
    return _operation("Infer, by the Open Inference Protocol", content, *parameters, body=body)


def _in_path(name: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", **schema}}


def document(limits: Limits, names: Sequence[str]) -> dict[str, Any]:
    """The description of a server with these limits and networks."""
    plain = {"type": "object"}
    text = {"text/plain": {"schema": {"type": "string"}}}
    index = _operation("The networks", _json({"type": "array", "items": plain}))
    index["responses"] |= {status: {"description": _REFUSALS[status]} for status in ("408", "413", "429")}
    paths: dict[str, Any] = {
        "/": {"get": _operation("A page for people", {"text/html": {"schema": {"type": "string"}}})},
        "/health": {"get": _operation("Whether the server is up, and its networks", _json(plain))},
        "/metrics": {"get": _operation("Metrics for Prometheus", text)},
        "/openapi.json": {"get": _operation("This description", _json(plain))},
        "/predict": {"post": _predict()},
        "/predict/{model}": {"post": _predict("model")},
        "/v2": {"get": _operation("The server", _json(plain))},
        "/v2/health/live": {"get": _operation("Whether the server is up", _json(plain))},
        "/v2/health/ready": {"get": _operation("Whether it answers", _json(plain))},
        "/v2/repository/index": {"post": index},
    }
    for version in ((), ("version",)):
        variables, path = ("model", *version), "/v2/models/{model}" + ("/versions/{version}" if version else "")
        paths |= {
            path: {"get": _operation("Inputs and outputs of a network", _json(plain), *variables)},
            f"{path}/ready": {"get": _operation("Whether a network answers", _json(plain), *variables)},
            f"{path}/infer": {"post": _infer(*variables)},
        }
    refusal = _object(["error"], error={"type": "string"}, msg={"type": "string"}, status={"type": "string"})
    about = (
        f"A request may have {limits.images} images and {limits.body} bytes, an image {limits.pixels} pixels; "
        f"{limits.requests} requests are answered at a time."
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Image classification", "version": "1", "description": about},
        "paths": paths,
        "components": {
            "schemas": {"Refusal": refusal},
            "parameters": {
                "model": _in_path("model", **({"enum": [*names]} if names else {})),
                "version": _in_path("version", pattern="^[1-9][0-9]*$", examples=["1"]),
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }
