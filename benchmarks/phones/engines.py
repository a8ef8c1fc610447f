"""The engines of benchmarks/mobile.py: how a network is converted for each, and run there on one thread.

Each engine may have a Python of its own with no more than its packages, so each imports what it needs itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from models.network import Network
    from utils.deploy.network import Description

# One image (1, 3, H, W), float32, normalized -> logits (1, classes).
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Source:
    """A network that is to be converted, in a folder that `benchmarks.phones.source` has written."""

    folder: Path

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    @cached_property
    def description(self) -> Description:
        from utils.deploy.network import Description

        file = self.folder / "description.json"
        return Description.from_json(file.read_text(encoding="utf-8"), str(file))

    @property
    def name(self) -> str:
        return self.description.network

    def array(self, name: str) -> np.ndarray:
        """images, expected, calibration, photos or photo_logits."""
        return np.load(self.folder / f"{name}.npy")

    @property
    def has_photos(self) -> bool:
        """Whether there are images to quantize the network by, and to count its answers on."""
        return (self.folder / "photos.npy").exists()

    def network(self) -> Network:
        """The network with its weights, in evaluation mode."""
        from safetensors.torch import load_file

        import models

        model = models.build(self.name, class_dim=self.description.class_dim)
        model.load_state_dict(load_file(self.folder / "weights.safetensors"))
        return model.eval().requires_grad_(False)


class NotPossible(Exception):
    """What an engine's packages cannot do; the message says why."""


def tool(name: str, *words: object) -> None:
    """Runs a converter, which may end its process as it likes.

    Args:
        name: of a command of this Python's environment, or of a function of MNN's. (Its commands install a package and
            send figures of use to its makers; the functions that they call do neither.)
        words: its arguments.

    Raises:
        NotPossible: it fails; the message is the last line that it said.
    """
    command = [str(Path(sys.executable).with_name(name))]
    if name.startswith("mnn"):
        command = [sys.executable, "-c", f"import sys, _tools; _tools.{name}(sys.argv)"]
    done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise NotPossible(f"{name} ends with {done.returncode}: {said[-1] if said else 'without a word'}")


# Number of the hint for the tiles of Winograd's convolutions. By default they are so large that float rounding shows in
# the fourth digit of the logits.
WINOGRAD_MEMORY_LEVEL = 3


class OnnxRuntime:
    """The ONNX model as it is exported."""

    def convert(self, source: Source, folder: Path) -> list[Path]:
        return [Path(shutil.copy(source.onnx, folder / "model.onnx"))]

    def quantize(self, source: Source, folder: Path) -> list[Path]:
        import torch

        from utils.deploy.quantize import quantize

        return [quantize(folder / "model.onnx", [torch.from_numpy(source.array("calibration"))])]

    def open(self, files: list[Path], source: Source) -> Run:
        return exported(files[0], "onnxruntime")


class ExecuTorch:
    """infer.py --inference_format=executorch."""

    def convert(self, source: Source, folder: Path) -> list[Path]:
        from utils.deploy.export import save_inference

        return [save_inference(source.network(), source.description, folder, "executorch")]

    def quantize(self, source: Source, folder: Path) -> list[Path]:
        import torch

        from utils.deploy.executorch_export import quantize_executorch
        from utils.deploy.export import folded_program

        images = torch.from_numpy(source.array("calibration"))
        program = folded_program(source.network(), images[:2])
        return [quantize_executorch(program, source.description, folder, images.split(8), "--calibration_dir")]

    def open(self, files: list[Path], source: Source) -> Run:
        return exported(files[0], "auto")


def exported(file: Path, engine: str) -> Run:
    """An export as predict.py runs it."""
    import torch

    from utils.deploy.exported import load_exported

    network = load_exported(str(file), engine=engine, batch_size=1)
    return lambda image: network(torch.from_numpy(image)).numpy()


class LiteRT:
    """litert-torch, from the network; images go in as (1, H, W, 3), as phones have them."""

    def convert(self, source: Source, folder: Path) -> list[Path]:
        import litert_torch  # pyright: ignore[reportMissingImports]
        import torch

        from utils.deploy.export import fold_batch_norms

        images = torch.from_numpy(source.array("images"))
        model = litert_torch.to_channel_last_io(fold_batch_norms(source.network(), images[:2]), args=[0])
        litert_torch.convert(model.eval(), (images[:1].permute(0, 2, 3, 1).contiguous(),)).export(
            str(folder / "model.tflite")
        )
        return [folder / "model.tflite"]

    def quantize(self, source: Source, folder: Path) -> list[Path]:
        from ai_edge_quantizer import quantizer, recipe  # pyright: ignore[reportMissingImports]

        float_file, file = folder / "model.tflite", folder / "model_int8.tflite"
        signatures = _interpreter(float_file).get_signature_list()
        ((key, signature),) = signatures.items()
        (name,) = signature["inputs"]
        images = source.array("calibration").transpose(0, 2, 3, 1)
        work = quantizer.Quantizer(str(float_file), recipe.static_wi8_ai8())
        found = work.calibrate({key: [{name: np.ascontiguousarray(image[None])} for image in images]}, num_threads=1)
        work.quantize(found).export_model(str(file), overwrite=True)
        return [file]

    def open(self, files: list[Path], source: Source) -> Run:
        interpreter = _interpreter(files[0])
        interpreter.allocate_tensors()
        (given,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()

        def run(image: np.ndarray) -> np.ndarray:
            pixels = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
            if given["dtype"] == np.int8:
                scale, zero = given["quantization"]
                pixels = np.clip(np.round(pixels / scale) + zero, -128, 127).astype(np.int8)
            interpreter.set_tensor(given["index"], pixels)
            interpreter.invoke()
            logits = interpreter.get_tensor(output["index"])
            if output["dtype"] == np.int8:
                scale, zero = output["quantization"]
                logits = (logits.astype(np.float32) - zero) * scale
            return logits

        return run


def _interpreter(file: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    return Interpreter(str(file), num_threads=1)


class Ncnn:
    """pnnx, from the network traced by TorchScript. Its packages have no tools for int8."""

    def convert(self, source: Source, folder: Path) -> list[Path]:
        import torch

        from utils.deploy.export import fold_batch_norms

        images = torch.from_numpy(source.array("images"))
        model = fold_batch_norms(source.network(), images[:2])
        traced = folder / "model.pt"
        torch.jit.save(cast(Any, torch.jit.trace(model, images[:1], check_trace=False)), str(traced))
        shape = ",".join(map(str, images[:1].shape))
        tool("pnnx", traced, f"inputshape=[{shape}]f32", "fp16=0")
        files = [folder / "model.ncnn.param", folder / "model.ncnn.bin"]
        if not all(file.exists() for file in files):
            raise NotPossible("pnnx writes no model")
        return files

    def quantize(self, source: Source, folder: Path) -> list[Path]:
        raise NotPossible("the packages ncnn and pnnx have no tools for int8")

    def open(self, files: list[Path], source: Source) -> Run:
        import ncnn  # pyright: ignore[reportMissingImports]

        net = ncnn.Net()
        net.opt.num_threads = 1
        net.opt.use_vulkan_compute = False
        for precision in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{precision}", False)
        if net.load_param(str(files[0])) or net.load_model(str(files[1])):
            layers = {line.split()[0] for line in files[0].read_text().splitlines()[2:]}
            unknown = ", ".join(sorted(layer for layer in layers if "." in layer))  # pnnx left PyTorch's names
            raise NotPossible(f"ncnn cannot load what pnnx has written{unknown and f': it has no {unknown}'}")

        def run(image: np.ndarray) -> np.ndarray:
            extractor = net.create_extractor()
            extractor.input("in0", ncnn.Mat(image[0]))
            failed, output = extractor.extract("out0")
            if failed:
                raise NotPossible(f"ncnn cannot run what pnnx has written: {failed}")
            return np.array(output)[None]

        run.net = net  # type: ignore[attr-defined]  # which the extractors do not keep
        return run


class Mnn:
    """Its converter, from the ONNX model."""

    # Operators that it takes for others: an approximation of Gelu, and the norm of the whole tensor. ONNX defines them
    # by simpler operators, which replace them.
    replaced = (("", "Gelu"), ("", "ReduceL2"))

    def convert(self, source: Source, folder: Path) -> list[Path]:
        return [self._convert(source, folder / "model.mnn")]

    def _convert(self, source: Source, file: Path, *settings: str) -> Path:
        import onnx.inliner

        exact = file.with_suffix(".onnx")
        model = onnx.load(source.onnx)
        model = onnx.inliner.inline_selected_functions(model, list(self.replaced), inline_schema_functions=True)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        onnx.save(model, exact)
        files = ("--modelFile", exact, "--MNNModel", file)
        tool("mnnconvert", "-f", "ONNX", *files, "--bizCode", "classifier", *settings)
        if not file.exists():
            raise NotPossible("mnnconvert writes no model")
        return file

    def quantize(self, source: Source, folder: Path) -> list[Path]:
        about, file, settings = source.description, folder / "model_int8.mnn", folder / "mnnquant.json"
        height, width = about.image_size
        pictures = source.folder / "calibration"
        how = {
            "format": "RGB",
            "mean": [255 * value for value in about.image_mean],
            "normal": [1 / (255 * value) for value in about.image_std],
            "width": width,
            "height": height,
            "path": f"{pictures}/",
            "used_image_num": len(list(pictures.iterdir())),
            "feature_quantize_method": "KL",
            "weight_quantize_method": "MAX_ABS",
        }
        settings.write_text(json.dumps(how))
        # It crashes for other models; and running a static transformer crashes.
        static = self._convert(source, folder / "static.mnn", "--saveStaticModel")
        tool("mnnquant", static, file, settings)
        if not file.exists():
            raise NotPossible("mnnquant writes no model")
        return [file]

    def open(self, files: list[Path], source: Source) -> Run:
        from MNN import expr, nn  # pyright: ignore[reportMissingImports]

        runtime = nn.create_runtime_manager(({"backend": "CPU", "numThread": 1, "precision": "high"},))
        runtime.set_hint(WINOGRAD_MEMORY_LEVEL, 1)
        net = nn.load_module_from_file(str(files[0]), ["images"], ["logits"], runtime_manager=runtime)

        def run(image: np.ndarray) -> np.ndarray:
            given = expr.const(image, list(image.shape), expr.NCHW)
            (output,) = net.forward([given])
            return np.array(expr.convert(output, expr.NCHW).read()).reshape(1, -1)

        return run


# By their names on the command line.
ENGINES = {"onnxruntime": OnnxRuntime, "executorch": ExecuTorch, "litert": LiteRT, "ncnn": Ncnn, "mnn": Mnn}
# Packages whose versions are told.
PACKAGES = {
    "onnxruntime": ("onnxruntime",),
    "executorch": ("executorch",),
    "litert": ("litert-torch", "ai-edge-litert", "ai-edge-quantizer"),
    "ncnn": ("ncnn", "pnnx"),
    "mnn": ("MNN",),
}
