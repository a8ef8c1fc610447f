"""inference.yml: everything that PaddleClas writes is understood, and nothing is guessed."""

from __future__ import annotations

import time

import pytest
from paddle_programs import PPLCNET, example_files

from utils.errors import FormatError
from utils.formats.inference_yml import InferenceSettings, PostProcess, Resize, read_inference_yml
from utils.formats.yaml_data import read_yaml


def with_transforms(*transforms: str) -> InferenceSettings:
    return read_inference_yml(f"PreProcess: {{transform_ops: [{', '.join(transforms)}]}}")


def with_post(post: str) -> InferenceSettings:
    return read_inference_yml(f"PreProcess: {{transform_ops: []}}\nPostProcess: {post}")


@pytest.mark.parametrize("folder", PPLCNET)
def test_file_of_paddleclas(folder):
    settings = read_inference_yml(example_files()[f"{folder}/inference.yml"].decode())
    names = settings.post.class_names
    assert names is not None and len(names) == 20 and names[0] == "tench, Tinca tinca"
    assert settings == InferenceSettings(
        network="PPLCNet_x0_25",
        resize=Resize(short=256, size=None, interpolation="bilinear", backend="cv2"),
        crop=(224, 224),
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        post=PostProcess("Topk", {"topk": 5}, names),
    )


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("DecodeImage: {to_rgb: False, channel_first: False, backend: pil}", {"rgb": False, "decoder": "pil"}),
        ("ResizeImage: {size: 32}", {"resize": Resize(None, (32, 32))}),
        ("ResizeImage: {size: [160, 80], resize_short: 0}", {"resize": Resize(None, (160, 80))}),
        ("ResizeImage: {resize_short: 8, backend: PIL}", {"resize": Resize(8, None, "bilinear", "pil")}),
        ("ResizeImage: {resize_short: 8, interpolation: Bicubic}", {"resize": Resize(8, None, "bicubic")}),
        ("ResizeImage: {resize_short: 8, interpolation: 2}", {"resize": Resize(8, None, "bicubic")}),
        ("ResizeImage: {size: 8, interpolation: 2, backend: pil}", {"resize": Resize(None, (8, 8), "bilinear", "pil")}),
        ("CropImage: {size: [8, 16]}", {"crop": (8, 16)}),
        ("NormalizeImage: {scale: 1.0/255.0, channel_num: 4}", {"scale": 1 / 255, "channels": 4}),
        ("NormalizeImage: {scale: 1.0, mean: [1, 2, 3]}", {"scale": 1.0, "mean": (1.0, 2.0, 3.0)}),
        ("NormalizeImage: {scale: '1e-3', order: hwc}", {"scale": 0.001}),
        ("NormalizeImage: null", {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
        ("ToCHWImage: null", {"resize": None, "crop": None, "scale": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)}),
    ],
)  # fmt: skip
def test_transforms(transform, expected):
    settings = with_transforms(transform)
    for name, value in expected.items():
        assert getattr(settings, name) == value


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        ("null", None),
        ("{NormalizeFeatures: null}", PostProcess("NormalizeFeatures", {})),
        ("{Topk: {topk: 1, label_list: [0_degree, 180]}}", PostProcess("Topk", {"topk": 1}, ("0_degree", "180"))),
        ("{Topk: {topk: 1, label_list: {1: b, 0: a}}}", PostProcess("Topk", {"topk": 1}, ("a", "b"))),
        ("{Topk: {class_id_map_file: x.txt}}", PostProcess("Topk", {"class_id_map_file": "x.txt"})),
        (
            "{main_indicator: ThreshOutput, ThreshOutput: {threshold: 0.9, label_0: no, label_1: 'yes'}}",
            PostProcess("ThreshOutput", {"threshold": 0.9, "label_0": False, "label_1": "yes"}),
        ),
        (
            "{main_indicator: PersonAttribute, PersonAttribute: {threshold: 0.5, glasses_threshold: 0.3}, Topk: {}}",
            PostProcess("PersonAttribute", {"threshold": 0.5, "glasses_threshold": 0.3}),
        ),
    ],
)
def test_what_is_made_of_outputs(post, expected):
    settings = with_post(post)
    assert settings.post == expected and settings.save_dir is None


def test_folder_of_predicted_classes():
    settings = with_post("{main_indicator: Topk, Topk: {topk: 5}, SavePreLabel: {save_dir: ./pre_label/}}")
    assert (settings.post, settings.save_dir) == (PostProcess("Topk", {"topk": 5}), "./pre_label/")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lacks the list PreProcess.transform_ops"),
        ("[1, 2]", r"the file should be a mapping, not \[1, 2\]"),
        ("1: 2", "the file should be a mapping"),
        ("PreProcess: 5", "PreProcess should be a mapping, not 5"),
        ("PreProcess: {transform_ops: {}}", "lacks the list PreProcess.transform_ops"),
        ("PreProcess: {transform_ops: [{}]}", "should be one transform"),
        ("a: b: c", "it is not valid YAML: mapping values are not allowed in this context in line 1"),
        ("a: !!python/object/apply:os.system [ls]", "it is not valid YAML: could not determine a constructor"),
        ("a: 2001-99-99", "it is not valid YAML: month must be in"),
        ("a: &a [x]\nb: *a", r"refers to a part of itself \(\*a\)"),
        ("[" * 100, "nested more than 32 levels deep"),
        ("a: '" + "x" * 1001 + "'", "more than 1000 characters"),
        ("- a\n" * 70_000, "more than 60000 parts"),
        ("# " * 2_200_000, "more than 4 MB"),
    ],
)
def test_what_is_no_inference_yml(text, reason):
    with pytest.raises(FormatError, match=reason) as caught:
        read_inference_yml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("transforms", "reason"),
    [
        (["RandFlipImage: {}"], "transform 'RandFlipImage' is not supported; known are DecodeImage, ResizeImage"),
        (["CropImage: {size: 8}", "ResizeImage: {size: 8}"], "ResizeImage is in the wrong place"),
        (["CropImage: {size: 8}", "CropImage: {size: 8}"], "CropImage is in the wrong place"),
        (["ResizeImage: {sise: 8}"], "ResizeImage has the unknown argument 'sise'"),
        (["ResizeImage: {}"], "ResizeImage.size should be a number of pixels, 1 to 16384, not None"),
        (["ResizeImage: {resize_short: -1}"], "ResizeImage.resize_short should be a number of pixels"),
        (["ResizeImage: {size: [1, 2, 3]}"], "ResizeImage.size should be a size, or width and height"),
        (["ResizeImage: {size: 8, interpolation: area, backend: pil}"], "interpolation should be one of nearest, "),
        (["ResizeImage: {size: 8, interpolation: random}"], "interpolation should be one of nearest, .* not 'random'"),
        (["ResizeImage: {size: 8, backend: gd}"], "ResizeImage.backend should be one of cv2, pil, not 'gd'"),
        (["CropImage: {size: 1000000}"], "CropImage.size should be a number of pixels"),
        (["CropImage: {size: true}"], "CropImage.size should be a number of pixels"),
        (["NormalizeImage: {scale: __import__('os')}"], "NormalizeImage.scale should be a number"),
        (["NormalizeImage: {scale: 1/0}"], "NormalizeImage.scale should be a number"),
        (["NormalizeImage: {scale: .inf}"], "NormalizeImage.scale should be a number"),
        (["NormalizeImage: {std: [1, 0, 1]}"], "should be above 0"),
        (["NormalizeImage: {mean: [1, 2]}"], "NormalizeImage.mean should be three numbers"),
        (["NormalizeImage: {channel_num: 5}"], "channel_num should be one of 3, 4, not 5"),
        (["DecodeImage: {channel_first: True}"], "channel_first should be one of False, not True"),
    ],
)
def test_transforms_that_are_not_supported(transforms, reason):
    with pytest.raises(FormatError, match=reason):
        with_transforms(*transforms)


@pytest.mark.parametrize(
    ("post", "reason"),
    [
        ("{Topk: {}, ThreshOutput: {}}", "PostProcess has Topk, ThreshOutput, but no main_indicator"),
        ("{main_indicator: Other, Topk: {}}", "main_indicator is 'Other', which PostProcess does not have"),
        ("{main_indicator: [1], Topk: {}}", r"main_indicator is \[1\], which PostProcess does not have"),
        ("{Topk: {label_list: 5}}", "label_list should be a list of names, not 5"),
        ("{Topk: {label_list: [[a]]}}", r"a name in label_list should be a text, not \['a'\]"),
        ("{Topk: {topk: [5]}}", r"Topk.topk should be a number or a text, not \[5\]"),
        ("{SavePreLabel: {save_dir: 5}}", "SavePreLabel.save_dir should be a folder, not 5"),
    ],
)
def test_what_cannot_be_made_of_outputs(post, reason):
    with pytest.raises(FormatError, match=reason):
        with_post(post)


def test_numbers_to_base_60_do_not_take_long():
    start = time.process_time()
    read_yaml(("- 1" + ":1" * 490 + "\n") * 4000)
    assert time.process_time() - start < 4  # half a second; a million digits in one number would take hours
