"""An exported network: its description, its weight file, and how it is called."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace

import torch
from torch import Tensor

from utils.errors import UserError, cut, of_the_machine, reason
from utils.flags.inputs import UNNOTED, ScaleError, checked_input

DESCRIPTION = "description.json"
FORMAT = 1

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Description:
    """Describes an exported network and how its images are prepared.

    Attributes:
        network: its name, as in --model.
        class_names: by class number, None for a class without a name; may cover the first classes only, or none.
        image_shape: channels, height, width.
        resize_short_size, interpolation: as the flags; see `utils.reading.transforms.EvalTransform`.
        image_mean, image_std: per channel, in the order of `channel_order`, for pixels scaled to 0..1; see
            `utils.reading.normalize.normalize`.
        resize_mode, resize_backend, decode_backend, channel_order, background, image_depth_range: as the flags.
        multi_label: an image may have several of the classes, each by a sigmoid of its logit.
        threshold: lowest probability at which an image has a class, one for all classes or one per class. For a binary
            classifier (one class per image, two classes), lowest probability of the second class. None: not set.
        precision: arithmetic of the export, float32 or int8.
        params_name: name of the weight file that belongs to the model file; "" if the model file has the weights.
        params_bytes, params_sha256: its size and checksum, or those of the graph in the model file.
        format: version of this description.
        class_dim: number of classes; in descriptions without it, the number of names.
    """

    network: str
    class_names: list[str | None]
    image_shape: list[int]
    resize_short_size: int
    interpolation: int
    image_mean: list[float]
    image_std: list[float]
    resize_mode: str = UNNOTED["resize_mode"]
    resize_backend: str = UNNOTED["resize_backend"]
    decode_backend: str = UNNOTED["decode_backend"]
    channel_order: str = UNNOTED["channel_order"]
    background: list[int] | None = UNNOTED["background"]
    image_depth_range: list[int] | None = UNNOTED["image_depth_range"]
    multi_label: bool = False
    threshold: list[float] | None = None
    precision: str = "float32"
    params_name: str = ""
    params_bytes: int = 0
    params_sha256: str = ""
    format: int = FORMAT
    class_dim: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_dim", self.class_dim or len(self.class_names))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image_shape[1], self.image_shape[2]

    def to_json(self) -> str:
        """The description as `from_json` reads it."""
        return json.dumps(asdict(self), indent=1)

    def with_params(self, name: str, size: int, checksum: str) -> Description:
        """The description with these fields about the weight file; name "" if the model file has the weights."""
        return replace(self, params_name=name, params_bytes=size, params_sha256=checksum)

    @classmethod
    def from_json(cls, text: str, path: str) -> Description:
        """Reads a description; `path` is the file that holds it, for errors.

        Raises:
            UserError: it is not a description, or has another format version.
        """
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                found = cut(repr(values["format"]), 20)
                raise UserError(
                    f"--model_file {path} has format {found}, and this version reads format {FORMAT}: export the "
                    "network again"
                )
            values = {"multi_label": False, "threshold": None, **values, **checked_input(values)}
            if "class_dim" not in values:
                values["class_dim"] = len(values["class_names"])
                if values["class_names"] == [str(number) for number in range(values["class_dim"])]:
                    values["class_names"] = []  # numbers stood for unknown names
            description = cls(**{field.name: values[field.name] for field in fields(cls)})
            if type(description.params_bytes) is not int or type(description.class_dim) is not int:
                raise ValueError("not numbers")
            texts = (description.network, description.precision, description.params_name, description.params_sha256)
            if not all(isinstance(text, str) and len(text) <= 300 and text.isprintable() for text in texts):
                raise ValueError("not texts")
            if not _is_threshold(description):
                raise ValueError("not thresholds")
            if not len(description.class_names) <= description.class_dim or description.class_dim < 1:
                raise ValueError("not as many names as classes")
            if not all(isinstance(name, str | None) for name in description.class_names):
                raise ValueError("not names")
            # JSON may hold a lone surrogate, which cannot be encoded: UnicodeEncodeError, a ValueError.
            "".join(name or "" for name in (*description.class_names, *texts)).encode()
        except ScaleError as error:
            raise UserError(f"--model_file {path}: {error}: export the network again") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"--model_file {path} is damaged: its description cannot be read") from None
        return description


def _is_threshold(description: Description) -> bool:
    """Whether a description's threshold and `multi_label` are valid."""
    threshold, classes = description.threshold, description.class_dim
    if type(description.multi_label) is not bool or threshold is None:
        return type(description.multi_label) is bool
    counts = (1, classes) if description.multi_label else (1,)
    return (
        isinstance(threshold, list)
        and len(threshold) in counts
        and all(type(value) in (int, float) and 0 <= value <= 1 for value in threshold)
    )


@dataclass(frozen=True)
class Settings:
    """How to run a network; the attributes are arguments of `utils.deploy.exported.load_exported`."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    engine: str = "auto"
    batch_size: int = 8
    images: float = 0
    measure: bool | None = None
    gpu_mem: int | None = None
    use_compile: bool = False
    use_tensorrt: bool = False
    may_use_cpu: bool = False
    cpu_flag: str = ""


@dataclass(frozen=True)
class ExportedNetwork:
    """A network that is ready to run: call it with images to get logits.

    Attributes:
        description: describes it and how its images are prepared.
        engine: name of the engine that runs it.
        device: where it runs, and where the images must be.
        dtype: the images' type.
        memory_format: the images' memory format.
        run: computes the output.
        topk: classes per image that its files ask for; None if they do not say.
        attributes: the kind of attributes that its files name, as --attributes; None if they do not say.
        remedy: what to do if the model cannot be run, for errors.
    """

    description: Description
    engine: str
    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    run: Run
    topk: int | None = None
    attributes: str | None = None
    remedy: str = "export the network again"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Maps normalized images (N, 3, H, W) to logits, float32 (N, classes)."""
        logits = self._output(images)
        if logits.ndim != 2 or len(logits) != len(images):
            raise UserError(
                f"--model_file ({self.description.network}) is damaged: for {len(images)} images its output has the "
                f"shape {list(logits.shape)}; {self.remedy}"
            )
        if logits.shape[1] != self.description.class_dim:
            raise UserError(
                f"--model_file ({self.description.network}): the model has {logits.shape[1]} classes, but its "
                f"description says {self.description.class_dim}: {self.remedy}"
            )
        return logits

    def _output(self, images: Tensor) -> Tensor:
        """The network's output, float32; raises `UserError` if it fails or does not return a tensor."""
        try:
            output = self.run(images)
        except UserError:
            raise
        except Exception as error:  # an operator may raise anything for arguments from a file
            if of_the_machine(error) is not None:
                raise
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"--model_file ({self.description.network}) cannot be run: {cut(text, 300)}; {self.remedy}"
            ) from None
        if not isinstance(output, Tensor):
            raise UserError(f"--model_file ({self.description.network}) is damaged: its output is not a tensor")
        return output.float()

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Maps normalized images (N, 3, H, W) to an output that is not class scores, float32 (N, flattened)."""
        rows = self._output(images)
        if not rows.ndim or len(rows) != len(images):
            raise UserError(
                f"--features_path: for {len(images)} images the output of {self.description.network} has the shape "
                f"{list(rows.shape)}, not one row per image: choose another output with --output_name"
            )
        return rows.reshape(len(images), -1)


def checked_params(description: Description, model_file: str, params_file: str | None) -> str:
    """Path of the weight file, after a check that it was written together with the model file.

    Raises:
        UserError: it was not, or it cannot be read.
    """
    path = params_file or os.path.join(os.path.dirname(model_file), os.path.basename(description.params_name))
    try:
        size = os.path.getsize(path)
        if size < description.params_bytes:
            problem = f"has {size} bytes, not {description.params_bytes}: it is cut short, or belongs to another model"
        elif size > description.params_bytes or sha256(path) != description.params_sha256:
            problem = "does not belong to that model, or is damaged"
        else:
            return path
    except OSError as error:
        problem = reason(error)
    raise UserError(
        f"--params_file {path}, for --model_file {model_file} ({description.network}): {problem}; give the two files "
        "that were written together"
    )


def sha256(path: str) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
