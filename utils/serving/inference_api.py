"""The Open Inference Protocol, version 2, over HTTP, with Triton's extensions for binary tensors and classification.

https://github.com/kserve/open-inference-protocol, and in Triton's documentation "Binary Tensor Data Extension" and
"Classification Extension".

    input   images          BYTES [N]            encoded images; in JSON in base64
            pixels          UINT8 [N, H, W, 3]   decoded images of the network's size
            input           FP32 [N, 3, H, W]    the network's input itself
    output  probabilities   FP32 [N, classes]
            logits          FP32 [N, classes]
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from utils.reading.class_names import name_of
from utils.serving.decoders import Encoded
from utils.serving.predict_api import checked_inputs, json_object
from utils.serving.refusal import Refusal
from utils.serving.repository import Served
from utils.serving.service import Service

HEADER_LENGTH = "Inference-Header-Content-Length"
PLATFORM = "pytorch_image_classification"
# Name of an input -> its datatype, and NumPy's type for its elements.
INPUTS: dict[str, tuple[str, Any]] = {
    "images": ("BYTES", None),
    "pixels": ("UINT8", np.dtype(np.uint8)),
    "input": ("FP32", np.dtype("<f4")),
}
OUTPUTS = ("probabilities", "logits")


def metadata(served: Served) -> dict[str, Any]:
    """Describes a network's inputs, of which a request has one, and its outputs."""
    about = served.network.description
    height, width = served.transform.image_size
    shapes = {"images": [-1], "pixels": [-1, height, width, 3], "input": [-1, 3, height, width]}
    return {
        "name": served.name,
        "versions": [str(served.version)],
        "platform": PLATFORM,
        "inputs": [{"name": name, "datatype": INPUTS[name][0], "shape": shapes[name]} for name in INPUTS],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, about.class_dim]} for name in OUTPUTS],
    }


def find(request: Request, service: Service) -> Served:
    """The network named in a request's path, checked for the version in it; raises `Refusal`."""
    served = service.repository.get(request.path_params["model"])
    version = request.path_params.get("version", str(served.version))
    if version != str(served.version):
        raise Refusal(404, f"{served.name} is served in version {served.version} only")
    return served


async def infer(request: Request, service: Service) -> Response:
    """Answers an inference request."""
    served = find(request, service)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "compressed requests are not supported: send it without Content-Encoding")
    values, tensors = _split(await request.body(), request.headers.get(HEADER_LENGTH))
    images = _read_inputs(values.get("inputs"), tensors, served, service)
    asked = _asked_outputs(values)
    if not isinstance(values.get("id", ""), str):
        raise Refusal(400, "the id of the request must be a text")
    logits = await service.logits(served, images, [f"image {number}" for number in range(len(images))])
    if not logits.isfinite().all():
        raise Refusal(500, f"the logits of {served.name} are not finite numbers: its weights are damaged")
    head: dict[str, Any] = {"model_name": served.name, "model_version": str(served.version)}
    if "id" in values:
        head["id"] = values["id"]
    return _response(head, [_output(served, logits, *each) for each in asked])


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON object of a request, and the binary tensors behind it."""
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal() and int(header_length[:12]) <= length):
            raise Refusal(400, f"{HEADER_LENGTH} {header_length[:20]!r} is not a length within the request")
        length = int(header_length)
    return json_object(body[:length]), memoryview(body)[length:]


def _read_inputs(inputs: Any, tensors: memoryview, served: Served, service: Service) -> Sequence[Encoded | np.ndarray]:
    """The images of a request; raises `Refusal`."""
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refusal(400, f"inputs must be a list of one tensor: {', '.join(INPUTS)}")
    tensor = inputs[0]
    datatype, dtype = INPUTS.get(str(tensor.get("name")), ("", None))
    if tensor.get("datatype") != datatype:
        kinds = ", ".join(f"{name} ({kind})" for name, (kind, _) in INPUTS.items())
        raise Refusal(400, f"the input's name or datatype is not one of the network's: {kinds}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(side) is int and 0 <= side < 1 << 31 for side in shape):
        raise Refusal(400, f"{tensor['name']}: shape must be a list of lengths")
    service.limits.check_images(shape[0])
    size = _parameters(tensor, tensor["name"]).get("binary_data_size")
    if size is not None and (type(size) is not int or size != len(tensors)):
        raise Refusal(400, f"{tensor['name']}: binary_data_size must be the {len(tensors)} bytes after the JSON")
    if dtype is None:
        images = _strings(tensor.get("data")) if size is None else _elements(tensors)
        if shape not in ([len(images)], [len(images), 1]):
            raise Refusal(400, f"images: there are {len(images)}, but the shape is {shape[:8]}")
        return images
    count = math.prod(shape)
    if size is None:
        array = _numbers(tensor.get("data"), dtype, tensor["name"])
    elif size != count * dtype.itemsize:
        raise Refusal(400, f"{tensor['name']}: {size} bytes do not fit the shape {shape[:8]}")
    else:
        array = np.frombuffer(tensors, dtype)
    if array.size != count:
        raise Refusal(400, f"{tensor['name']}: {array.size} values do not fit the shape {shape[:8]}")
    return checked_inputs(array.reshape(shape), served)


def _parameters(values: dict[str, Any], whose: str) -> dict[str, Any]:
    """The parameters of a request, an input or an output; raises `Refusal` if they are not an object."""
    parameters = values.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refusal(400, f"the parameters of {whose} must be an object")
    return parameters


def _strings(data: Any) -> list[str]:
    """Images in base64, each of them possibly in its own list."""
    if isinstance(data, list):
        flat = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in data]
        texts = [each for each in flat if isinstance(each, str)]
        if len(texts) == len(data):
            return texts
    raise Refusal(400, "images: data must be a list of files in base64")


def _elements(tensors: memoryview) -> list[bytes]:
    """The elements of a binary BYTES tensor: each has its length in four bytes, little-endian, then its bytes."""
    found, at = [], 0
    while at < len(tensors):
        if at + 4 > len(tensors) or at + 4 + (length := struct.unpack_from("<I", tensors, at)[0]) > len(tensors):
            raise Refusal(400, "images: the binary tensor ends within an element")
        found.append(bytes(tensors[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _numbers(data: Any, dtype: np.dtype, name: str) -> np.ndarray:
    """A tensor in JSON, nested or flat."""
    try:
        array = np.asarray(data, np.int64 if dtype == np.uint8 else np.float64)
    except (ValueError, TypeError, OverflowError):
        raise Refusal(400, f"{name}: data must be an array of numbers") from None
    if dtype == np.uint8 and array.size and not (array.min() >= 0 and array.max() <= 255):
        raise Refusal(400, f"{name}: data has values that are not between 0 and 255")
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _asked_outputs(values: dict[str, Any]) -> list[tuple[str, bool, int]]:
    """For each requested output: name, whether binary, and number of classes as text (0: the tensor itself)."""
    all_binary = _parameters(values, "the request").get("binary_data_output") is True
    outputs = values.get("outputs", [])
    if not isinstance(outputs, list) or len(outputs) > len(OUTPUTS):
        raise Refusal(400, f"outputs must be a list of some of {', '.join(OUTPUTS)}")
    if not outputs:
        return [(OUTPUTS[0], all_binary, 0)]
    asked = []
    for output in outputs:
        if not isinstance(output, dict) or output.get("name") not in OUTPUTS:
            raise Refusal(400, f"an output must be one of {', '.join(OUTPUTS)}")
        about = _parameters(output, output["name"])
        classes = about.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise Refusal(400, f"{output['name']}: classification must be a number of classes")
        asked.append((output["name"], about.get("binary_data", all_binary) is True, classes))
    return asked


def _output(served: Served, logits: Tensor, name: str, binary: bool, classes: int) -> tuple[dict[str, Any], bytes]:
    """An output of the response, and its binary form, empty if it is in JSON."""
    rows = logits
    if name == "probabilities":
        rows = logits.sigmoid() if served.network.description.multi_label else logits.softmax(1)
    if not classes:
        about: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(rows.shape)}
        if not binary:
            return {**about, "data": rows.flatten().tolist()}, b""
        data = rows.numpy().astype("<f4").tobytes()
    else:
        found = torch.topk(rows, min(classes, rows.shape[1]))
        names = served.classifier.class_names
        words = [
            f"{score:f}:{number}" + (f":{label}" if (label := name_of(names, number)) is not None else "")
            for scores, numbers in zip(found.values.tolist(), found.indices.tolist(), strict=True)
            for score, number in zip(scores, numbers, strict=True)
        ]
        about = {"name": name, "datatype": "BYTES", "shape": list(found.values.shape)}
        if not binary:
            return {**about, "data": words}, b""
        data = b"".join(struct.pack("<I", len(word)) + word for word in map(str.encode, words))
    return {**about, "parameters": {"binary_data_size": len(data)}}, data


def _response(head: dict[str, Any], outputs: list[tuple[dict[str, Any], bytes]]) -> Response:
    answer = JSONResponse({**head, "outputs": [about for about, _ in outputs]})
    tensors = b"".join(data for _, data in outputs)
    if not tensors:
        return answer
    text = bytes(answer.body)
    headers = {HEADER_LENGTH: str(len(text))}
    return Response(text + tensors, media_type="application/octet-stream", headers=headers)
