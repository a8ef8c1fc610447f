"""The list of networks: `models.ResNet50_vd(class_dim=1000)` builds one, `models.list_models()` names them all.

Nothing is imported until a network is asked for, so that names can be listed and checked without PyTorch.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from models.inputs import InputConfig

if TYPE_CHECKING:
    from models.network import Network

# module -> the networks it builds
FAMILIES: dict[str, tuple[str, ...]] = {
    "alexnet": ("AlexNet",),
    "convnext": (
        "ConvNeXt_tiny",
        "ConvNeXt_small",
        "ConvNeXt_base_224",
        "ConvNeXt_base_384",
        "ConvNeXt_large_224",
        "ConvNeXt_large_384",
    ),
    "cspdarknet": ("CSPDarkNet53",),
    "cswin": (
        "CSWinTransformer_tiny_224",
        "CSWinTransformer_small_224",
        "CSWinTransformer_base_224",
        "CSWinTransformer_base_384",
        "CSWinTransformer_large_224",
        "CSWinTransformer_large_384",
    ),
    "cvt": (
        "CvT_13_224",
        "CvT_21_224",
        "CvT_13_384",
        "CvT_21_384",
        "CvT_W24_384",
    ),
    "darknet": ("DarkNet53",),
    "darts": ("DARTS_4M", "DARTS_6M"),
    "deit": (
        "DeiT_tiny_patch16_224",
        "DeiT_small_patch16_224",
        "DeiT_base_patch16_224",
        "DeiT_base_patch16_384",
        "DeiT_tiny_distilled_patch16_224",
        "DeiT_small_distilled_patch16_224",
        "DeiT_base_distilled_patch16_224",
        "DeiT_base_distilled_patch16_384",
    ),
    "densenet": ("DenseNet121", "DenseNet161", "DenseNet169", "DenseNet201", "DenseNet264"),
    "dla": ("DLA34", "DLA46_c", "DLA46x_c", "DLA60", "DLA60x", "DLA60x_c", "DLA102", "DLA102x", "DLA102x2", "DLA169"),
    "dpn": ("DPN68", "DPN92", "DPN98", "DPN107", "DPN131"),
    "dsnet": ("DSNet_tiny", "DSNet_small", "DSNet_base"),
    "efficientnet": (
        "EfficientNet",
        "EfficientNetB0",
        "EfficientNetB0_small",
        "EfficientNetB1",
        "EfficientNetB2",
        "EfficientNetB3",
        "EfficientNetB4",
        "EfficientNetB5",
        "EfficientNetB6",
        "EfficientNetB7",
    ),
    "efficientnet_v2": ("EfficientNetV2_S",),
    "esnet": ("ESNet_x0_25", "ESNet_x0_5", "ESNet_x0_75", "ESNet_x1_0"),
    "fast_imagenet": ("FastImageNet",),
    "fasternet": ("FasterNet_T0", "FasterNet_T1", "FasterNet_T2", "FasterNet_S", "FasterNet_M", "FasterNet_L"),
    "foundation_vit": (
        "CLIP_vit_base_patch16_224",
        "CLIP_vit_base_patch32_224",
        "CLIP_vit_large_patch14_224",
        "CLIP_vit_large_patch14_336",
        "BEiTv2_vit_base_patch16_224",
        "BEiTv2_vit_large_patch16_224",
        "CAE_vit_base_patch16_224",
        "MOCOV3_vit_small",
        "MOCOV3_vit_base",
        "MAE_vit_base_patch16",
        "MAE_vit_large_patch16",
        "MAE_vit_huge_patch14",
        "EVA_vit_giant_patch14",
    ),
    "ghostnet": ("GhostNet_x0_5", "GhostNet_x1_0", "GhostNet_x1_3"),
    "googlenet": ("GoogLeNet",),
    "hardnet": ("HarDNet39_ds", "HarDNet68_ds", "HarDNet68", "HarDNet85"),
    "hrnet": (
        "HRNet_W18_C",
        "HRNet_W30_C",
        "HRNet_W32_C",
        "HRNet_W40_C",
        "HRNet_W44_C",
        "HRNet_W48_C",
        "HRNet_W60_C",
        "HRNet_W64_C",
        "HRNet_W18_C_paddleclas",
        "HRNet_W30_C_paddleclas",
        "HRNet_W32_C_paddleclas",
        "HRNet_W40_C_paddleclas",
        "HRNet_W44_C_paddleclas",
        "HRNet_W48_C_paddleclas",
        "HRNet_W64_C_paddleclas",
        "HRNet_W60_C_paddleclas",
    ),
    "inception_resnet_v2": ("InceptionResNetV2", "InceptionResNetV2_caffe"),
    "inception_v3": ("InceptionV3", "InceptionV3_caffe", "InceptionV3_torchvision"),
    "inception_v4": ("InceptionV4", "InceptionV4_caffe"),
    "levit": ("LeViT_128S", "LeViT_128", "LeViT_192", "LeViT_256", "LeViT_384"),
    "micronet": ("MicroNet_M0", "MicroNet_M1", "MicroNet_M2", "MicroNet_M3"),
    "mixnet": ("MixNet_S", "MixNet_M", "MixNet_L"),
    "mobilenet_v1": ("MobileNetV1", "MobileNetV1_x0_25", "MobileNetV1_x0_5", "MobileNetV1_x0_75", "MobileNetV1_x1_0"),
    "mobilenet_v2": (
        "MobileNetV2",
        "MobileNetV2_ssld",
        "MobileNetV2_x0_25",
        "MobileNetV2_x0_5",
        "MobileNetV2_x0_75",
        "MobileNetV2_x1_0",
        "MobileNetV2_x1_5",
        "MobileNetV2_x2_0",
    ),
    "mobilenet_v3": (
        "MobileNetV3_large_x0_25",
        "MobileNetV3_large_x0_35",
        "MobileNetV3_large_x0_5",
        "MobileNetV3_large_x0_75",
        "MobileNetV3_large_x1_0",
        "MobileNetV3_large_x1_25",
        "MobileNetV3_small_x0_25",
        "MobileNetV3_small_x0_35",
        "MobileNetV3_small_x0_5",
        "MobileNetV3_small_x0_75",
        "MobileNetV3_small_x1_0",
        "MobileNetV3_small_x1_25",
        "MobileNetV3_large_x0_5_paddleclas",
        "MobileNetV3_large_x0_75_paddleclas",
        "MobileNetV3_large_x1_0_paddleclas",
        "MobileNetV3_large_x1_25_paddleclas",
        "MobileNetV3_small_x0_5_paddleclas",
        "MobileNetV3_small_x0_75_paddleclas",
        "MobileNetV3_small_x1_0_paddleclas",
        "MobileNetV3_small_x1_25_paddleclas",
        "MobileNetV3_large_x1_0_ssld",
        "MobileNetV3_small_x1_0_ssld",
        "MobileNetV3_small_x0_35_ssld",
    ),
    "mobilenet_v4": (
        "MobileNetV4_conv_small",
        "MobileNetV4_conv_medium",
        "MobileNetV4_conv_large",
        "MobileNetV4_hybrid_medium",
        "MobileNetV4_hybrid_large",
    ),
    "mobilenext": ("MobileNeXt_x0_35", "MobileNeXt_x0_5", "MobileNeXt_x0_75", "MobileNeXt_x1_0", "MobileNeXt_x1_4"),
    "mobilevit": (
        "MobileViT_XXS",
        "MobileViT_XS",
        "MobileViT_S",
        "MobileViTV3_XXS",
        "MobileViTV3_XS",
        "MobileViTV3_S",
        "MobileViTV3_XXS_L2",
        "MobileViTV3_XS_L2",
        "MobileViTV3_S_L2",
    ),
    "mobilevit_v2": (
        "MobileViTV2_x0_5",
        "MobileViTV2_x1_0",
        "MobileViTV2_x2_0",
        "MobileViTV2_x0_75",
        "MobileViTV2_x1_25",
        "MobileViTV2_x1_5",
        "MobileViTV2_x1_75",
        "MobileViTV3_x0_5",
        "MobileViTV3_x0_75",
        "MobileViTV3_x1_0",
    ),
    "next_vit": (
        "NextViT_small_224",
        "NextViT_base_224",
        "NextViT_large_224",
        "NextViT_small_384",
        "NextViT_base_384",
        "NextViT_large_384",
    ),
    "peleenet": ("PeleeNet",),
    "pp_hgnet": ("PPHGNet_tiny", "PPHGNet_small", "PPHGNet_base"),
    "pp_hgnet_v2": (
        "PPHGNetV2_B0",
        "PPHGNetV2_B1",
        "PPHGNetV2_B2",
        "PPHGNetV2_B3",
        "PPHGNetV2_B4",
        "PPHGNetV2_B5",
        "PPHGNetV2_B6",
    ),
    "pp_lcnet": (
        "PPLCNet_x0_25",
        "PPLCNet_x0_35",
        "PPLCNet_x0_5",
        "PPLCNet_x0_75",
        "PPLCNet_x1_0",
        "PPLCNet_x1_5",
        "PPLCNet_x2_0",
        "PPLCNet_x2_5",
    ),
    "pp_lcnet_v2": ("PPLCNetV2_small", "PPLCNetV2_base", "PPLCNetV2_large"),
    "pvt_v2": ("PVT_V2_B0", "PVT_V2_B1", "PVT_V2_B2", "PVT_V2_B2_Linear", "PVT_V2_B3", "PVT_V2_B4", "PVT_V2_B5"),
    "rednet": ("RedNet26", "RedNet38", "RedNet50", "RedNet101", "RedNet152"),
    "regnet": (
        "RegNetX_200MF",
        "RegNetX_400MF",
        "RegNetX_600MF",
        "RegNetX_800MF",
        "RegNetX_1600MF",
        "RegNetX_3200MF",
        "RegNetX_4GF",
        "RegNetX_6400MF",
        "RegNetX_8GF",
        "RegNetX_12GF",
        "RegNetX_16GF",
        "RegNetX_32GF",
    ),
    "repvgg": (
        "RepVGG_A0",
        "RepVGG_A1",
        "RepVGG_A2",
        "RepVGG_B0",
        "RepVGG_B1",
        "RepVGG_B1g2",
        "RepVGG_B1g4",
        "RepVGG_B2",
        "RepVGG_B2g4",
        "RepVGG_B3",
        "RepVGG_B3g4",
        "RepVGG_D2se",
    ),
    "res2net": (
        "Res2Net50_48w_2s",
        "Res2Net50_26w_4s",
        "Res2Net50_14w_8s",
        "Res2Net50_26w_6s",
        "Res2Net50_26w_8s",
        "Res2Net101_26w_4s",
        "Res2Net152_26w_4s",
    ),
    "res2net_vd": (
        "Res2Net50_vd_48w_2s",
        "Res2Net50_vd_26w_4s",
        "Res2Net50_vd_26w_4s_ssld",
        "Res2Net50_vd_14w_8s",
        "Res2Net50_vd_26w_6s",
        "Res2Net50_vd_26w_8s",
        "Res2Net101_vd_26w_4s",
        "Res2Net101_vd_26w_4s_ssld",
        "Res2Net152_vd_26w_4s",
        "Res2Net200_vd_26w_4s",
        "Res2Net200_vd_26w_4s_ssld",
    ),
    "resnest": ("ResNeSt50_fast_1s1x64d", "ResNeSt50", "ResNeSt101", "ResNeSt200", "ResNeSt269"),
    "resnet": ("ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152"),
    "resnet_acnet": ("ResNet18_ACNet", "ResNet34_ACNet", "ResNet50_ACNet", "ResNet101_ACNet", "ResNet152_ACNet"),
    "resnet_v2": ("ResNet101_v2", "ResNet152_v2", "ResNet269_v2"),
    "resnet_vc": ("ResNet50_vc", "ResNet101_vc", "ResNet152_vc"),
    "resnet_vd": (
        "ResNet18_vd",
        "ResNet34_vd",
        "ResNet34_vd_ssld",
        "ResNet50_vd",
        "ResNet50_vd_v2",
        "ResNet50_vd_ssld",
        "ResNet50_vd_ssld_v2",
        "Fix_ResNet50_vd_ssld_v2",
        "ResNet101_vd",
        "ResNet101_vd_ssld",
        "ResNet152_vd",
        "ResNet200_vd",
    ),
    "resnext": (
        "ResNeXt50_32x4d",
        "ResNeXt50_64x4d",
        "ResNeXt101_32x4d",
        "ResNeXt101_64x4d",
        "ResNeXt152_32x4d",
        "ResNeXt152_64x4d",
    ),
    "resnext_vd": (
        "ResNeXt50_vd_32x4d",
        "ResNeXt50_vd_64x4d",
        "ResNeXt101_vd_32x4d",
        "ResNeXt101_vd_64x4d",
        "ResNeXt152_vd_32x4d",
        "ResNeXt152_vd_64x4d",
    ),
    "resnext_wsl": (
        "ResNeXt101_32x8d_wsl",
        "ResNeXt101_32x16d_wsl",
        "ResNeXt101_32x32d_wsl",
        "ResNeXt101_32x48d_wsl",
        "Fix_ResNeXt101_32x48d_wsl",
    ),
    "rexnet": ("ReXNet_1_0", "ReXNet_1_3", "ReXNet_1_5", "ReXNet_2_0", "ReXNet_3_0"),
    "se_hrnet": (
        "SE_HRNet_W18_C",
        "SE_HRNet_W30_C",
        "SE_HRNet_W32_C",
        "SE_HRNet_W40_C",
        "SE_HRNet_W44_C",
        "SE_HRNet_W48_C",
        "SE_HRNet_W60_C",
        "SE_HRNet_W64_C",
        "SE_HRNet_W18_C_paddleclas",
        "SE_HRNet_W30_C_paddleclas",
        "SE_HRNet_W32_C_paddleclas",
        "SE_HRNet_W40_C_paddleclas",
        "SE_HRNet_W44_C_paddleclas",
        "SE_HRNet_W48_C_paddleclas",
        "SE_HRNet_W60_C_paddleclas",
        "SE_HRNet_W64_C_paddleclas",
    ),
    "se_resnet_vd": (
        "SE_ResNet18_vd",
        "SE_ResNet34_vd",
        "SE_ResNet50_vd",
        "SE_ResNet101_vd",
        "SE_ResNet152_vd",
        "SE_ResNet200_vd",
    ),
    "se_resnext": (
        "SE_ResNeXt50_32x4d",
        "SE_ResNeXt101_32x4d",
        "SE_ResNeXt152_32x4d",
        "SE_ResNeXt152_64x4d",
    ),
    "se_resnext_vd": ("SE_ResNeXt50_vd_32x4d", "SE_ResNeXt101_vd_32x4d"),
    "senet_vd": ("SENet154_vd",),
    "shufflenet_v2": (
        "ShuffleNetV2",
        "ShuffleNetV2_swish",
        "ShuffleNetV2_x0_25",
        "ShuffleNetV2_x0_33",
        "ShuffleNetV2_x0_5",
        "ShuffleNetV2_x1_0",
        "ShuffleNetV2_x1_5",
        "ShuffleNetV2_x2_0",
        "ShuffleNetV2_x0_5_swish",
        "ShuffleNetV2_x1_0_swish",
        "ShuffleNetV2_x1_5_swish",
        "ShuffleNetV2_x2_0_swish",
        "ShuffleNetV2_x2_0_paddleclas",
    ),
    "squeezenet": ("SqueezeNet1_0", "SqueezeNet1_1"),
    "starnet": ("StarNet_S1", "StarNet_S2", "StarNet_S3", "StarNet_S4"),
    "swin": (
        "SwinTransformer_tiny_patch4_window7_224",
        "SwinTransformer_small_patch4_window7_224",
        "SwinTransformer_base_patch4_window7_224",
        "SwinTransformer_base_patch4_window12_384",
        "SwinTransformer_large_patch4_window7_224",
        "SwinTransformer_large_patch4_window12_384",
    ),
    "swin_v2": (
        "SwinTransformerV2_tiny_patch4_window8_256",
        "SwinTransformerV2_tiny_patch4_window16_256",
        "SwinTransformerV2_small_patch4_window8_256",
        "SwinTransformerV2_small_patch4_window16_256",
        "SwinTransformerV2_base_patch4_window8_256",
        "SwinTransformerV2_base_patch4_window16_256",
        "SwinTransformerV2_base_patch4_window24_384",
        "SwinTransformerV2_large_patch4_window16_256",
        "SwinTransformerV2_large_patch4_window24_384",
    ),
    "tinynet": (
        "TinyNet_A",
        "TinyNet_B",
        "TinyNet_C",
        "TinyNet_D",
        "TinyNet_E",
        "TinyNet_A_recipe",
        "TinyNet_B_recipe",
        "TinyNet_C_recipe",
        "TinyNet_D_recipe",
        "TinyNet_E_recipe",
    ),
    "tnt": ("TNT_small", "TNT_base"),
    "twins": ("alt_gvt_small", "alt_gvt_base", "alt_gvt_large", "pcpvt_small", "pcpvt_base", "pcpvt_large"),
    "uniformer": (
        "UniFormer_small",
        "UniFormer_small_plus",
        "UniFormer_small_plus_dim64",
        "UniFormer_base",
        "UniFormer_base_ls",
    ),
    "van": ("VAN_B0", "VAN_B1", "VAN_B2", "VAN_B3"),
    "vgg": ("VGG11", "VGG13", "VGG16", "VGG19"),
    "vit": (
        "ViT_small_patch16_224",
        "ViT_base_patch16_224",
        "ViT_base_patch16_384",
        "ViT_base_patch32_384",
        "ViT_large_patch16_224",
        "ViT_large_patch16_384",
        "ViT_large_patch32_384",
    ),
    "wide_resnet": ("WideResNet50_2",),
    "xception": ("Xception41", "Xception65", "Xception71"),
    "xception_deeplab": ("Xception41_deeplab", "Xception65_deeplab", "Xception71_deeplab"),
}

_MODULES = {name: module for module, names in FAMILIES.items() for name in names}


def list_models(pattern: str = "*") -> list[str]:
    """The names of all networks that match a shell pattern such as `ResNet*_vd`, sorted."""
    return sorted(fnmatch.filter(_MODULES, pattern))


def _unknown(name: str) -> str:
    """What to say of a name that no network has: the nearest ones."""
    near = difflib.get_close_matches(name, _MODULES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {len(_MODULES)}, such as ResNet50_vd"
    return f"unknown network {name!r}: {hint}"


def check_name(name: str) -> None:
    """Raises `ValueError`, with the nearest names, if there is no network `name`."""
    if name not in _MODULES:
        raise ValueError(_unknown(name))


def _module(name: str) -> ModuleType:
    """The module that builds network `name`."""
    check_name(name)
    return importlib.import_module(f"models.{_MODULES[name]}")


def input_config(name: str, published_by: str = "") -> InputConfig:
    """The input that network `name` was published with, as its module says; see `models.inputs`.

    Args:
        name: of the network.
        published_by: "PaddleClas" for weights of PaddleClas, whose input may be another than that of fluid's weights.

    Raises:
        ValueError: there is no such network.
    """
    said = vars(_module(name))
    inputs: dict[str, InputConfig] = said.get("INPUTS", {})
    if published_by == "PaddleClas":
        inputs = said.get("PADDLECLAS_INPUTS", inputs)
    return next((config for pattern, config in inputs.items() if fnmatch.fnmatchcase(name, pattern)), InputConfig())


def build(name: str, **options: Any) -> Network:
    """Builds network `name`; `options` are those of its constructor, `class_dim` among them.

    Raises:
        ValueError: there is no such network, or it cannot be built with these options (an `OptionError`).
    """
    return getattr(_module(name), name)(**options)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(_module(name), name)
    raise AttributeError(f"models: {_unknown(name)}")


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
