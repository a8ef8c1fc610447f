"""Turns models that PaddlePaddle exported into exported networks: translates, describes and optimizes them.

inference.yml, which PaddleClas writes next to the program, says how images are prepared. This module fills in what it
leaves open, and applies the flags that override it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from utils.console import note, warn
from utils.deploy.engine_choice import Source, checksum_of, load_by_engine
from utils.deploy.fast import make_fast
from utils.deploy.network import Description, ExportedNetwork, Run, Settings
from utils.deploy.paddle_settings import described_input, usual_input
from utils.errors import FlagError, FormatError, UserError, one_line
from utils.flags.paddleclas.use import post_flags
from utils.flags.parsing import as_typed
from utils.formats.inference_model import InferenceModel, read_inference_model
from utils.formats.inference_yml import InferenceSettings, PostProcess, read_inference_yml
from utils.formats.published import is_published
from utils.programs.paddle_translate import Input, Output, Translation, set_precision, translate
from utils.reading.class_names import imagenet_names

# What to do about a program that cannot be run. Its user usually cannot export it again.
REMEDY = "give the files as PaddlePaddle wrote them, or another export of the network"

# Image size for a program that takes any size, if neither inference.yml nor a flag says more.
USUAL_SIZE = 224


@dataclass(frozen=True)
class PaddleModel:
    """An exported model of PaddlePaddle, translated.

    Attributes:
        translation: the translated program.
        description: describes the network and how its images are prepared.
        output: the number of the chosen output.
        topk: classes per image that inference.yml asks for; None if it does not say.
        attributes: the kind of attributes in inference.yml, as --attributes; None if it names none.
        images: the number of images that the translation takes at a time; None: any number.
    """

    translation: Translation
    description: Description
    output: int
    topk: int | None
    attributes: str | None
    images: int | None = None

    def module(self, before_activation: bool = True) -> fx.GraphModule:
        """A module that maps images (N, 3, H, W) to the output, or to the input of its final softmax."""
        module = self.translation.single(self.output, before_activation)
        channels = self.translation.inputs[0].shape[1]
        if channels == 4:
            _add_channel(module)
        return module


def load_paddle(
    model_file: str,
    params_file: str | None,
    settings: Settings,
    given: Mapping[str, Any],
    output_name: str | None = None,
    features: bool = False,
) -> ExportedNetwork:
    """Loads a model that PaddlePaddle exported; takes and raises what `load_exported` does."""
    model = read_paddle(model_file, params_file, given, output_name, features)
    about, device, dtype = model.description, settings.device, settings.dtype

    def own() -> ExportedNetwork:
        module = model.module(before_activation=not features)
        if dtype != torch.float32:
            set_precision(module, dtype)
        run = make_fast(module, device, dtype, model.images or settings.batch_size, settings.use_compile, about.network)
        if model.images is not None:
            run = in_parts(run, model.images)
        return ExportedNetwork(about, "pytorch", device, dtype, torch.channels_last, run)

    source = Source(model_file, about, lambda: checksum_of(model.module()), model.module, own)
    network = own() if model.images is not None and settings.engine == "auto" else load_by_engine(source, settings)
    return replace(network, description=about, topk=model.topk, attributes=model.attributes, remedy=REMEDY)


def read_paddle(
    model_file: str,
    params_file: str | None = None,
    given: Mapping[str, Any] | None = None,
    output_name: str | None = None,
    features: bool = False,
) -> PaddleModel:
    """Reads and translates a model that PaddlePaddle exported.

    Args:
        model_file: see `utils.formats.inference_model.read_inference_model`.
        params_file: its parameters; None: the file next to it.
        given: the `INPUT_FLAGS` that were typed; they override inference.yml.
        output_name: name of the output to use; None: the one of shape (images, classes).
        features: use an output that is not class scores.

    Raises:
        UserError: the files cannot be read or translated, or are not an image classifier.
    """
    given = given or {}
    model = read_inference_model(model_file, params_file, remedy="give --params_file")
    try:
        settings = None if model.settings is None else read_inference_yml(model.settings)
    except FormatError as error:
        raise UserError(f"--model_file {model_file}: inference.yml: {one_line(error)}") from None
    found = {} if settings is None else described_input(settings, given, model_file)
    image_shape = given.get("image_shape") or found.get("image_shape") or [3, USUAL_SIZE, USUAL_SIZE]
    try:
        translation = translate(model.program, model.parameters, (image_shape[1], image_shape[2]))
        translation, images = free(translation, model)
    except FormatError as error:
        raise UserError(f"--model_file {model_file}: {one_line(error)}") from None
    image_shape = _checked_shape(translation.inputs, {**found, **given}, model_file)
    output = choose_output(translation.outputs, output_name, features, model_file)
    post = None if settings is None else settings.post
    names: list[str] = []
    classes = 0
    answers: dict[str, Any] = {}
    if not features:
        answers = _read_post(translation.outputs[output], post, model_file)
        classes = translation.outputs[output].shape[1] or 0
        names = answers.get("class_names") or _class_names(classes, post, model_file)
    values = {**usual_input(image_shape), **found, **given, "image_shape": image_shape}
    settled = {*found, *given}
    if assumed := {name: value for name, value in values.items() if name not in settled and value is not None}:
        _report_assumed(model, assumed, model_file)
    description = Description(
        _network_name(settings, model_file),
        [*names],
        class_dim=classes,
        **values,
        multi_label=answers.get("multi_label", False),
        threshold=answers.get("threshold"),
    )
    return PaddleModel(translation, description, output, answers.get("topk"), answers.get("attributes"), images)


def _network_name(settings: InferenceSettings | None, model_file: str) -> str:
    """The network's name: from inference.yml, or from its file or folder."""
    if settings is not None and settings.network:
        return settings.network
    path = Path(model_file).absolute()
    usual = path.stem in ("model", "__model__", "inference")
    name = path.parent.name if usual and not path.is_dir() else path.name.split(".")[0]
    return name.removesuffix("_infer") or "model"


def _report_assumed(model: InferenceModel, assumed: Mapping[str, Any], model_file: str) -> None:
    """Prints the values that are assumed because neither inference.yml nor a flag gives them."""
    where = "has no inference.yml" if model.settings is None else "has an incomplete inference.yml"
    shown = (f"--{name}={as_typed(value).replace(' ', ',')}" for name, value in assumed.items())
    note(f"{model_file} {where}; images are prepared with these assumed values: {' '.join(shown)}")


def _class_names(classes: int, post: PostProcess | None, model_file: str) -> list[str]:
    """Class names from inference.yml, or ImageNet's for a published model; empty if neither is known."""
    names = None if post is None else post.class_names
    if names is not None and len(names) == classes:
        return list(names)
    if names is not None:
        warn(f"{model_file}: ignoring the {len(names)} names in inference.yml: the network has {classes} classes")
    path = Path(model_file).absolute()
    published = names is None and any(is_published(name, classes) for name in (path, path.parent))
    return imagenet_names() if published else []


# ------------------------------------------------------------------------------------------------ inputs and outputs


def _shown(label: str, shape: tuple[int | None, ...]) -> str:
    return f"{label[:100]} ({', '.join('N' if size is None else str(size) for size in shape)})"


def _checked_shape(inputs: tuple[Input, ...], wanted: Mapping[str, Any], model_file: str) -> list[int]:
    """Channels, height and width of the images that a program takes.

    Raises:
        FlagError: --image_shape asks for another shape.
        UserError: the program takes something other than images.
    """
    images = inputs[0]
    shape = images.shape
    if len(inputs) > 1 or len(shape) != 4 or images.dtype != torch.float32 or shape[1] not in (3, 4):
        listed = ", ".join(f"{_shown(each.label, each.shape)} as {str(each.dtype)[6:]}" for each in inputs[:5])
        raise UserError(
            f"--model_file {model_file} takes {listed}; its input must be images (N, 3, height, width) as float32"
        )
    image_shape = [3, *(int(size or 0) for size in shape[2:])]
    if wanted.get("image_shape", image_shape) != image_shape:
        raise FlagError(
            f"--model_file {model_file} takes only images of {image_shape}, not {wanted['image_shape']}: give "
            f"--image_shape={','.join(map(str, image_shape))}"
        )
    return image_shape


def choose_output(outputs: tuple[Output, ...], name: str | None, features: bool, model_file: str) -> int:
    """Chooses one of a program's outputs; returns its number.

    Args:
        outputs: the program's outputs.
        name: its name; None: the only output with class scores, or with `features` the only one without.
        features: whether any tensor with a row per image will do.
        model_file: the program's name, for errors.

    Raises:
        FlagError: no output fits, or several do.
    """
    listed = ", ".join(_shown(output.label, output.shape) for output in outputs[:10])
    if name is not None:
        chosen = [number for number, output in enumerate(outputs) if output.label == name]
        if not chosen:
            raise FlagError(f"--output_name {name}: the outputs of --model_file {model_file} are {listed}")
        wrong = outputs[chosen[0]].shape[:1] != (None,) if features else not outputs[chosen[0]].is_classes
        if wrong:
            what = (
                "one row per image"
                if features
                else "one number per image and class; predict.py --features_path writes it"
            )
            raise FlagError(f"--output_name {name}: not {what}; the outputs are {listed}")
        return chosen[0]
    if features:
        chosen = [n for n, output in enumerate(outputs) if output.shape[:1] == (None,) and not output.is_classes]
        chosen = chosen or [n for n, output in enumerate(outputs) if output.is_classes]
    else:
        chosen = [number for number, output in enumerate(outputs) if output.is_classes]
        chosen = [number for number in chosen if outputs[number].activation == "softmax"] or chosen
    if len(chosen) != 1:
        problem = "several possible outputs" if chosen else "no output of shape (images, classes)"
        raise FlagError(
            f"--model_file {model_file} has {problem}: {listed}; choose one with --output_name, or write an output "
            "other than class scores with predict.py --features_path"
        )
    return chosen[0]


def _read_post(output: Output, post: PostProcess | None, model_file: str) -> dict[str, Any]:
    """How to read an output: those of topk, multi_label, threshold, attributes and class_names that the files set.

    Raises:
        UserError: the files ask for post-processing that is not supported, or for several classes from a softmax.
    """
    found: dict[str, Any] = {}
    if post is not None:
        found, refused = post_flags(post)
        if refused:
            raise UserError(
                f"--model_file {model_file}: PostProcess of inference.yml: {refused}: write the output with predict.py "
                "--features_path, or put PostProcess: {Topk: {topk: 1}} into inference.yml"
            )
    classes = output.shape[1]
    if len(found.get("class_names", ())) not in (0, classes):
        raise UserError(f"--model_file {model_file}: PostProcess {post and post.kind} does not fit {classes} classes")
    if output.activation == "sigmoid":
        found["multi_label"] = True
    elif found.get("multi_label") and output.activation is not None:
        raise UserError(
            f"--model_file {model_file}: PostProcess {post and post.kind} of inference.yml is for several classes per "
            f"image, but the output {output.label[:100]} is a {output.activation}, which gives one class"
        )
    return found


@torch.inference_mode()
def free(translation: Translation, model: InferenceModel) -> tuple[Translation, int | None]:
    """Makes a translation take any number of images.

    A program exported for a fixed number of images may hold that number in several shapes. All of them are replaced by
    the number of images; if that changes the results, the translation stays as it is.

    Args:
        translation: of `model`.
        model: the source.

    Returns:
        The translation, and the number of images that it takes at a time; None: any number.
    """
    shape = translation.inputs[0].shape
    count = shape[0] if shape else None
    if count is None or len(translation.inputs) > 1 or len(shape) != 4:
        return translation, None
    images = torch.empty(2 * count, *(size or 0 for size in shape[1:]))
    images.normal_(generator=torch.Generator().manual_seed(0))
    parts = [translation.module(part) for part in images.split(count)]
    expected = [torch.cat(each) for each in zip(*parts, strict=True)]
    with contextlib.suppress(FormatError, RuntimeError):
        freed = translate(model.program, model.parameters, (images.shape[2], images.shape[3]), freed=True)
        answers = freed.module(images)
        if freed.inputs[0].shape[0] is None and all(map(_are_close, answers, expected)):
            return freed, None

    def any_number(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (None if shape[:1] == (count,) else shape[0], *shape[1:]) if shape else shape

    inputs = tuple(replace(each, shape=any_number(each.shape)) for each in translation.inputs)
    outputs = tuple(replace(each, shape=any_number(each.shape)) for each in translation.outputs)
    return replace(translation, inputs=inputs, outputs=outputs), count


def _are_close(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs agree up to rounding."""
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-4 * other.abs().max())


def in_parts(run: Run, count: int) -> Run:
    """Makes a module for exactly `count` images take any number: in parts of `count`, the last one padded."""

    def run_parts(images: Tensor) -> Tensor:
        answers = []
        for part in images.split(count):
            missing = count - len(part)
            filled = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part
            answers.append(run(filled)[: len(part)])
        return torch.cat(answers)

    return run_parts


def _add_channel(module: fx.GraphModule) -> None:
    """Makes a module that takes four channels, the last of them zeros, take three."""
    (images,) = module.graph.find_nodes(op="placeholder")
    with module.graph.inserting_after(images):
        padded = module.graph.call_function(torch.ops.aten.constant_pad_nd.default, (images, [0, 0, 0, 0, 0, 1]))
    padded.meta["shape"] = (None, 4, None, None)
    images.replace_all_uses_with(padded, delete_user_cb=lambda user: user is not padded)
    module.recompile()
