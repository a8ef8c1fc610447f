"""Writes the files of a Triton model around NAME/1/model.onnx, and a KServe manifest for it.

    NAME/config.pbtxt    input, output, dynamic batching, and how the client must prepare images
    NAME/labels.txt      class names, one a line, for Triton's classification extension
    NAME/kserve.yaml     an InferenceService; its user fills in where the repository, the folder above NAME, is stored

https://docs.nvidia.com/deeplearning/triton-inference-server, "Model Configuration".
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from utils.deploy.labels import LABELS, labels_text
from utils.deploy.network import Description
from utils.files import write_text
from utils.flags.inputs import INPUT_FLAGS

# Largest batch, and microseconds that a request waits for others.
MAX_BATCH_SIZE, MAX_DELAY = 64, 5000


def write_model(folder: Path, description: Description, flag: str) -> None:
    """Writes config.pbtxt, labels.txt and kserve.yaml to `folder`, which has 1/model.onnx; errors name `flag`."""
    write_text(folder / LABELS, labels_text(description), flag)
    write_text(folder / "config.pbtxt", configuration(folder.resolve().name, description), flag)
    write_text(folder / "kserve.yaml", manifest(folder.resolve().name), flag)


def configuration(name: str, description: Description) -> str:
    """The text of config.pbtxt."""
    shape = ", ".join(map(str, description.image_shape))
    return f"""# Images are prepared by the client, as the parameters say. image_mean and image_std are for pixels of 0
# to 1, in channel_order; the input is (pixel / 255 - mean) / std, channels first. The output is logits: a softmax
# makes probabilities of them, with multi_label a sigmoid.
name: {json.dumps(name)}
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH_SIZE}
input [
  {{ name: "images" data_type: TYPE_FP32 dims: [ {shape} ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {description.class_dim} ] label_filename: "labels.txt" }}
]
dynamic_batching {{ max_queue_delay_microseconds: {MAX_DELAY} }}
{_parameters(description)}"""


def _parameters(description: Description) -> str:
    """How to prepare images, as parameters named like the flags."""
    lines = []
    for name in ("network", *INPUT_FLAGS, "multi_label", "threshold"):
        value = getattr(description, name)
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append(f'parameters {{ key: "{name}" value {{ string_value: {json.dumps(text)} }} }}\n')
    return "".join(lines)


def manifest(name: str) -> str:
    """The text of kserve.yaml; Kubernetes allows only lower-case letters, digits and hyphens in names."""
    service = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") or "classifier"
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {service}
spec:
  predictor:
    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      # Where the folder is that has {name} in it: pvc://CLAIM/PATH, s3://BUCKET/PATH, ...
      storageUri: pvc://models/repository
"""
