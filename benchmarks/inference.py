"""How fast predict.py is, beside plain PyTorch, torchvision's networks and the engines of others.

    python benchmarks/inference.py
    python benchmarks/inference.py --model=ResNet50 --batch_size=1,8,64 --precision=float32,bfloat16,int8
    python benchmarks/inference.py --model=SwinTransformer_tiny_patch4_window7_224 --contestant=channels_last,timm
    python benchmarks/inference.py --threads=1 --cpu_time        on a machine that is busy with other things, too

From images in memory to logits, without reading files: latency at batch size 1, throughput at larger ones. The weights
are random, but batch-norms are given statistics of what they see: otherwise activations fade to denormal numbers, on
which processors are slow. All take turns, for as many rounds as asked for, and each one's best time counts: whatever
else the machine does can only make a run slower. What is not installed is left out.

    pytorch         NAME/model, run by predict.py
    onnxruntime     NAME/model.onnx, run by predict.py --engine=onnxruntime
    openvino        NAME/model.onnx, run by predict.py --engine=openvino
    eager           the network as it is built here, in bfloat16 under autocast
    channels_last   the same, in the memory format that suits CPUs and tensor cores
    torchvision     torchvision's network of the same architecture, channels_last
    timm            timm's, channels_last
    compiled        the network under torch.compile, channels_last, its weights frozen: not by default, it takes minutes

predict.py runs NAME/model by pytorch; * is what it chooses for NAME/model.onnx.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

import models
from models.network import Network
from utils.deploy.export import save_inference
from utils.deploy.exported import load_exported
from utils.deploy.network import Description
from utils.deploy.onnx_engines import choose_engine
from utils.deploy.quantize import quantize
from utils.devices import place
from utils.errors import UserError
from utils.flags.line_parser import LineParser
from utils.torchvision_compat import import_torchvision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}

Contestant = Callable[[], object]
CONTESTANTS = ("pytorch", "onnxruntime", "openvino", "eager", "channels_last", "torchvision", "timm", "compiled")

# Ours -> torchvision's, timm's.
PEERS: dict[str, tuple[str | None, str | None]] = {
    "CSPDarkNet53": (None, "cspdarknet53"),
    "ConvNeXt_tiny": ("convnext_tiny", "convnext_tiny"),
    "DLA34": (None, "dla34"),
    "DPN68": (None, "dpn68"),
    "DeiT_small_patch16_224": (None, "deit_small_patch16_224"),
    "DeiT_tiny_patch16_224": (None, "deit_tiny_patch16_224"),
    "DeiT_tiny_distilled_patch16_224": (None, "deit_tiny_distilled_patch16_224"),
    "DenseNet121": ("densenet121", "densenet121"),
    "EfficientNetB0": ("efficientnet_b0", "tf_efficientnet_b0"),
    "EfficientNetV2_S": ("efficientnet_v2_s", "tf_efficientnetv2_s"),
    "FasterNet_T0": (None, "fasternet_t0"),
    "GhostNet_x1_0": (None, "ghostnet_100"),
    "HRNet_W18_C": (None, "hrnet_w18"),
    "InceptionV3": ("inception_v3", "inception_v3"),
    "LeViT_128": (None, "levit_128"),
    "MixNet_S": (None, "tf_mixnet_s"),
    "MobileNetV1": (None, "mobilenetv1_100"),
    "MobileNetV2": ("mobilenet_v2", "mobilenetv2_100"),
    "MobileNetV3_large_x1_0": ("mobilenet_v3_large", "mobilenetv3_large_100"),
    "MobileNetV4_conv_small": (None, "mobilenetv4_conv_small"),
    "MobileNetV4_hybrid_medium": (None, "mobilenetv4_hybrid_medium"),
    "MobileViTV2_x1_0": (None, "mobilevitv2_100"),
    "MobileViT_S": (None, "mobilevit_s"),
    "NextViT_small_224": (None, "nextvit_small"),
    "PPHGNetV2_B0": (None, "hgnetv2_b0"),
    "PPHGNet_tiny": (None, "hgnet_tiny"),
    "PPLCNetV2_base": (None, "lcnetv2_base"),
    "PPLCNet_x1_0": (None, "lcnet_100"),
    "PVT_V2_B0": (None, "pvt_v2_b0"),
    "ReXNet_1_0": (None, "rexnet_100"),
    "RegNetX_800MF": ("regnet_x_800mf", "regnetx_008"),
    "RepVGG_A0": (None, "repvgg_a0"),
    "Res2Net50_26w_4s": (None, "res2net50_26w_4s"),
    "ResNeSt50": (None, "resnest50d"),
    "ResNeXt50_32x4d": ("resnext50_32x4d", "resnext50_32x4d"),
    "ResNet50": ("resnet50", "resnet50"),
    "ResNet50_vd": (None, "resnet50d"),
    "StarNet_S1": (None, "starnet_s1"),
    "SwinTransformer_tiny_patch4_window7_224": ("swin_t", "swin_tiny_patch4_window7_224"),
    "TNT_small": (None, "tnt_s_legacy_patch16_224"),
    "TinyNet_A": (None, "tinynet_a"),
    "ViT_base_patch16_224": ("vit_b_16", "vit_base_patch16_224"),
    "Xception41": (None, "xception41"),
    "alt_gvt_small": (None, "twins_svt_small"),
    "pcpvt_small": (None, "twins_pcpvt_small"),
}


Model = TypeVar("Model", bound=nn.Module)


def with_statistics(model: Model, images: Tensor) -> Model:
    """A network whose batch-norms keep activations in range."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.5
    if norms:
        with torch.no_grad():
            model.train()(images[:1].cpu().repeat(4, 1, 1, 1) + torch.randn(4, *images.shape[1:]))
    return model.eval()


def peers(name: str) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Who else has a network, and what builds it there; who is not installed is left out."""
    torchvision_name, timm_name = PEERS.get(name, (None, None))
    with contextlib.suppress(ImportError):
        torchvision = import_torchvision()
        if torchvision_name:
            yield "torchvision", lambda: torchvision.models.get_model(torchvision_name)
        if timm_name:
            yield "timm", lambda: importlib.import_module("timm").create_model(timm_name)


def export(
    name: str, model: Network, image_size: int, precisions: list[str], wanted: list[str], folder: Path
) -> dict[str, Path]:
    """Exports a network in every form that is asked for and possible here: its files by engine and precision."""
    names: list[str | None] = [str(number) for number in range(1000)]
    description = Description(name, names, [3, image_size, image_size], image_size, 1, [0.5] * 3, [0.25] * 3)
    files = {}
    if "pytorch" in wanted:
        files["pytorch"] = save_inference(model, description, folder)
    is_onnx_wanted = "onnxruntime" in wanted or "openvino" in wanted
    if is_onnx_wanted and all(importlib.util.find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime")):
        files["onnx"] = save_inference(model, description, folder, "onnx")
        if "int8" in precisions:
            files["int8"] = quantize(files["onnx"], [torch.randn(16, 3, image_size, image_size)])
    return files


def engines(
    files: dict[str, Path], images: Tensor, precision: str, wanted: list[str]
) -> Iterator[tuple[str, Contestant]]:
    """predict.py's engines at a precision."""
    dtype = DTYPES[precision]
    file_of = {"onnxruntime": "int8", "openvino": "int8"} if precision == "int8" else {
        "pytorch": "pytorch", "onnxruntime": "onnx", "openvino": "onnx"
    }  # fmt: skip
    for engine, file in file_of.items():
        if engine not in wanted or file not in files:
            continue
        if engine != "pytorch" and importlib.util.find_spec(engine) is None:
            continue
        try:
            network = load_exported(str(files[file]), None, images.device, dtype, engine=engine, batch_size=len(images))
        except UserError:
            continue  # it has no such precision, or does not use the GPU
        inputs = images.to(network.device, network.dtype, memory_format=network.memory_format)
        chosen = engine != "pytorch" and engine == choose_engine("auto", images.device, dtype, precision)
        yield f"{engine}{' *' if chosen else ''}", lambda network=network, inputs=inputs: network(inputs)


def networks(
    name: str, model: nn.Module, images: Tensor, precision: str, wanted: list[str]
) -> Iterator[tuple[str, Contestant]]:
    """Networks as PyTorch runs them."""
    if precision == "int8":
        return
    dtype = DTYPES[precision]

    def contestant(network: nn.Module, memory_format: torch.memory_format) -> Contestant:
        network = place(network, images.device, memory_format)
        inputs = images.contiguous(memory_format=memory_format)

        def run() -> object:
            autocast = torch.autocast(images.device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
            with torch.inference_mode(), autocast:
                return network(inputs)

        return run

    if "eager" in wanted:
        yield "eager", contestant(copy.deepcopy(model), torch.contiguous_format)
    if "channels_last" in wanted:
        yield "channels_last", contestant(copy.deepcopy(model), torch.channels_last)
    for peer, build in peers(name):
        if peer in wanted:
            yield peer, contestant(with_statistics(build(), images), torch.channels_last)
    if "compiled" in wanted:
        compiled = cast(nn.Module, torch.compile(copy.deepcopy(model), options={"freezing": True}))
        yield "compiled", contestant(compiled, torch.channels_last)


def race(contestants: dict[str, Contestant], rounds: int, clock: Callable[[], float], device: torch.device) -> dict:
    """The best time of each contestant, in seconds."""
    best = dict.fromkeys(contestants, float("inf"))
    for number in range(rounds + 1):  # the first one is for warming up
        for name, run in contestants.items():
            start = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                best[name] = min(best[name], clock() - start)
    return best


def main() -> None:
    def several(text: str) -> list[str]:
        return text.split(",")

    parser = LineParser(__doc__)
    parser.add_argument("--model", type=several, default=["ResNet50", "MobileNetV1", "EfficientNetB0"])
    parser.add_argument("--batch_size", type=lambda text: [int(size) for size in several(text)], default=[1, 8])
    parser.add_argument("--precision", type=several, default=["float32", "bfloat16"])
    parser.add_argument("--contestant", type=several, default=CONTESTANTS[:-1], help="some of those above")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu_time", action="store_true", help="measure processor time instead of time")
    parser.add_argument("--cpu", action="store_true", help="also where there is a GPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    clock = time.process_time if args.cpu_time else time.perf_counter
    print(f"PyTorch {torch.__version__}, {args.threads} threads, {device}; images per second (milliseconds a batch)")
    for name in args.model:
        image_size = models.input_config(name).image_size
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            model = with_statistics(models.build(name), torch.zeros(1, 3, image_size, image_size))
            files = export(name, model, image_size, args.precision, args.contestant, Path(folder))
            for precision in args.precision:
                for batch_size in args.batch_size:
                    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
                    contestants = dict(engines(files, images, precision, args.contestant))
                    contestants |= networks(name, model, images, precision, args.contestant)
                    best = race(contestants, args.rounds, clock, device)
                    print(f"\n{name}, {precision}, batch size {batch_size}")
                    for contestant, seconds in sorted(best.items(), key=lambda item: item[1]):
                        print(f"  {contestant:<15} {batch_size / seconds:8.1f} ({seconds * 1000:.1f})", flush=True)


if __name__ == "__main__":
    main()
