"""POST /predict/NAME: takes JSON like PaddleClas's hub serving, files in multipart/form-data, or a plain image.

PaddleClas had two forms of its JSON, and both are supported: a list of image files in base64, and an array in base64
with its shape and type, which PaddleClas's client has already prepared. https://github.com/PaddlePaddle/PaddleClas,
deploy/hubserving.
"""

from __future__ import annotations

import json
import math
from time import perf_counter
from typing import Any

import numpy as np
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from utils.evaluation.predictions import Prediction
from utils.serving.decoders import from_base64
from utils.serving.refusal import Refusal
from utils.serving.repository import Served
from utils.serving.service import Service

# Types of an array.
TYPES = {"uint8": np.uint8, "float32": np.float32, "float64": np.float64, "float16": np.float16}


def json_object(body: bytes) -> dict[str, Any]:
    """The object of a JSON request; raises `Refusal`."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "the request is not JSON") from None
    if not isinstance(values, dict):
        raise Refusal(400, "the request must be a JSON object")
    return values


async def predict(request: Request, service: Service) -> Response:
    """Answers a request in any of the three forms."""
    served = service.repository.get(request.path_params.get("model"))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    topk = _whole_number(request.query_params.get("topk"), "topk")
    if kind == "multipart/form-data":
        return await _predict_files(request, service, served, topk)
    if kind.startswith("image/") or kind == "application/octet-stream":
        found = await service.predictions(served, [await request.body()], ["image"], topk)
        return JSONResponse({"model": served.name, "predictions": [_values(each) for each in found]})
    if kind in ("application/json", "text/plain", ""):
        return await _predict_json(request, service, served, topk)
    raise Refusal(
        415, f"the type {kind[:80]!r} is not supported: send application/json, multipart/form-data or an image"
    )


def _values(prediction: Prediction) -> dict[str, Any]:
    return {"image": prediction.image, **prediction.values()}


def _whole_number(value: Any, name: str) -> int | None:
    """A number in a request, at least 1; None if it is missing; raises `Refusal`."""
    if value is None:
        return None
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise Refusal(400, f"{name} {text[:40]!r} must be an integer of at least 1")
    return int(text)


async def _predict_files(request: Request, service: Service, served: Served, topk: int | None) -> Response:
    """The files of a form, in any of its fields; topk may be a field too."""
    limit = service.limits.images
    try:
        form = await request.form(max_files=limit, max_fields=16, max_part_size=1024)
    except HTTPException as error:
        if "Too many files" in str(error.detail):
            raise Refusal(413, f"the request has more than {limit} images (--serve_images)") from None
        raise Refusal(error.status_code, f"the form cannot be read: {error.detail}") from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        images = [await file.read() for file in files]
        names = [file.filename or f"image {number}" for number, file in enumerate(files)]
        topk = _whole_number(form.get("topk", topk), "topk")
    finally:
        await form.close()
    found = await service.predictions(served, images, names, topk)
    return JSONResponse({"model": served.name, "predictions": [_values(each) for each in found]})


async def _predict_json(request: Request, service: Service, served: Served, topk: int | None) -> Response:
    start = perf_counter()
    values = json_object(await request.body())
    images, shape = values.get("images"), values.get("revert_params")
    topk = _whole_number(values.get("top_k", topk), "top_k")
    if isinstance(images, str):
        inputs: list[Any] = _array(images, shape, served)
    elif isinstance(images, list) and all(isinstance(image, str) for image in images):
        inputs = images
    else:
        raise Refusal(400, "images must be a list of files in base64, or an array in base64 with revert_params")
    names = [f"image {number}" for number in range(len(inputs))]
    found = await service.predictions(served, inputs, names, topk)
    predictions = [_in_hub_form(each) for each in found]
    results = {"prediction": predictions, "elapse": perf_counter() - start}
    return JSONResponse({"msg": "", "results": results, "status": "000"})


def _in_hub_form(prediction: Prediction) -> dict[str, Any]:
    """A prediction with PaddleClas's keys: clas_ids before its version 2.2, class_ids since then."""
    values = prediction.values()
    if "class" not in values:
        return values
    names = [name or "" for name in values.get("class_name", [])]
    ids = values["class"]
    return {"class_ids": ids, "clas_ids": ids, "scores": values["score"], "label_names": names}


def _array(text: str, about: Any, served: Served) -> list[np.ndarray]:
    """The inputs in a base64 array: the network's input, float (N, 3, H, W), or pixels, uint8 (N, H, W, 3)."""
    try:
        dtype = np.dtype(TYPES[about["dtype"]])
        shape = [int(length) for length in about["shape"]]
    except (TypeError, KeyError, ValueError, OverflowError):
        raise Refusal(
            400, f"revert_params must be {{shape, dtype}} of an array of one of the types {', '.join(TYPES)}"
        ) from None
    data = from_base64(text)
    if len(shape) != 4 or min(shape) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise Refusal(400, f"an array of {len(data)} bytes does not fit the shape and type of revert_params")
    return checked_inputs(np.frombuffer(data, dtype).reshape(shape), served)


def checked_inputs(array: np.ndarray, served: Served) -> list[np.ndarray]:
    """Splits a request's array into inputs that the network can take; raises `Refusal`."""
    height, width = served.transform.image_size
    wanted = (height, width, 3) if array.dtype == np.uint8 else (3, height, width)
    if array.shape[1:] != wanted:
        raise Refusal(400, f"{served.name} takes {array.dtype} of shape {[-1, *wanted]}, not {list(array.shape)}")
    if array.dtype == np.uint8:
        return list(array)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise Refusal(400, "the array has values that are not finite numbers")
    return list(array)
