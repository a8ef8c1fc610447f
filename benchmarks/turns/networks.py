"""Networks in plain PyTorch, ours and other libraries', with random weights."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

import models
from utils.devices import place
from utils.torchvision_compat import import_torchvision

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
    """A network whose batch norms keep activations in range."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.5
    if norms:
        with torch.no_grad():
            model.train()(images[:1].cpu().repeat(4, 1, 1, 1) + torch.randn(4, *images.shape[1:]))
    return model.eval()


def peers(name: str) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """The libraries that also have a network, with a function that builds it; without those that are not installed."""
    torchvision_name, timm_name = PEERS.get(name, (None, None))
    with contextlib.suppress(ImportError):
        torchvision = import_torchvision()
        if torchvision_name:
            yield "torchvision", lambda: torchvision.models.get_model(torchvision_name)
        if timm_name:
            yield "timm", lambda: importlib.import_module("timm").create_model(timm_name)


def runner(contestant: str, name: str, images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Returns a function that runs a network on images: eager, channels_last, compiled, torchvision or timm.

    Raises:
        LookupError: the library lacks the network, or is not installed.
    """
    builders = dict(peers(name)) | dict.fromkeys(("eager", "channels_last", "compiled"), lambda: models.build(name))
    torch.manual_seed(0)
    network = with_statistics(builders[contestant](), images)
    memory_format = torch.contiguous_format if contestant == "eager" else torch.channels_last
    network = place(network, images.device, memory_format)
    inputs = images.contiguous(memory_format=memory_format)
    if contestant == "compiled":
        network = cast(nn.Module, torch.compile(network, options={"freezing": True}))

    def run() -> object:
        autocast = torch.autocast(images.device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with torch.inference_mode(), autocast:
            return network(inputs)

    return run
