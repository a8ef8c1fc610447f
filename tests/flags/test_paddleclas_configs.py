"""Configurations of PaddleClas: the flags that they become, what is refused and with which words."""

from __future__ import annotations

import copy
import shlex
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import make_configurations

from utils.flags import parse
from utils.flags.idle import note_idle_flags
from utils.flags.parsing import Flags, _announced, build_parser
from utils.flags.table import GROUPS
from utils.reading.build import train_transform, varying_transforms
from utils.training.build import check_train_flags
from utils.weights.network import resolve_input

FACTS = make_configurations.facts()
MOBILE = "quick_start/MobileNetV3_large_x1_0.yaml"
DEPLOY = "deploy/inference_cls.yaml"


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """The flags of a script by a configuration of PaddleClas, which a function may change, and by more words."""
    monkeypatch.setenv("HOME", str(tmp_path))
    _announced.clear()

    def parsed(script: str, path: str, *words: str, change=None):
        content = copy.deepcopy(FACTS[path])
        if change is not None:
            change(content)
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return parse(script, ["-c", str(file), *words])

    return parsed


@pytest.fixture
def error(flags, capsys):
    """The one line with which a script ends."""

    def ended(script: str, path: str, *words: str, change=None) -> str:
        with pytest.raises(SystemExit) as raised:
            flags(script, path, *words, change=change)
        said = capsys.readouterr()
        assert raised.value.code == 2 and said.err.count("\n") == 1
        return said.err

    return ended


def test_evaluation(flags, capsys):
    args = flags("eval", MOBILE, "-o", "Global.pretrained_model=weights", "-o", "DataLoader.Eval.sampler.batch_size=32")
    expected = {
        "model": "MobileNetV3_large_x1_0_paddleclas", "class_dim": 102, "pretrained_model": "weights", "batch_size": 32,
        "data_dir": "./dataset/flowers102/", "image_shape": [3, 224, 224], "resize_short_size": 256,
        "interpolation": 1, "resize_mode": "short", "image_mean": [0.485, 0.456, 0.406], "reader_thread": 4,
    }  # fmt: skip
    assert {name: getattr(args, name) for name in expected} == expected
    assert expected.keys() <= args.given
    said = capsys.readouterr().out
    assert "config.yaml is the same as: python eval.py --pretrained_model=weights" in said
    assert (
        "these keys have no effect here: DataLoader.Eval.sampler.shuffle, DataLoader.Eval.loader.use_shared_memory"
        in said
    )


def test_the_printed_command_is_the_same(flags, capsys):
    words = ["-o", "Global.pretrained_model=a b", "--class_map_path", "my names.txt", "--topk=3"]
    args = flags("infer", MOBILE, *words)
    line = next(line for line in capsys.readouterr().out.splitlines() if "is the same as" in line)
    again = parse("infer", shlex.split(line.split("python infer.py ")[1]))
    assert again.given == args.given and again.values() == args.values()
    assert again.topk == 3 and again.pretrained_model == "a b"
    assert line.endswith("--class_map_path 'my names.txt' --topk=3")


def test_settings_for_another_use_are_not_called_idle(flags, capsys):
    args = flags("infer", MOBILE, "-o", "Global.pretrained_model=a", "--save_inference=True", "--topk=3")
    assert args.typed == {"save_inference", "topk"} and {"image_path", "batch_size"} < args.given
    note_idle_flags(args)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["--topk"]


def test_typed_flags_count_for_more(flags):
    args = flags(
        "infer", MOBILE, "-o", "Global.pretrained_model=a", "--pretrained_model=b", "--image_shape", "3", "96", "96"
    )
    assert args.pretrained_model == "b" and args.image_shape == [3, 96, 96] and args.topk == 5


def test_batches_of_all_processes(flags, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert flags("eval", MOBILE, "-o", "Global.pretrained_model=a").batch_size == 4 * 64


def test_deploy(flags, capsys):
    args = flags("predict", DEPLOY, "-o", "Global.inference_model_dir=net", "-o", "Global.infer_imgs=photos/",
                 "-o", "PostProcess.Topk.class_id_map_file=None", "-o", "Global.use_gpu=False")  # fmt: skip
    expected = {
        "model_file": "net", "image_path": "photos/", "batch_size": 1, "gpu_id": -1, "topk": 5,
        "resize_short_size": 256, "image_shape": [3, 224, 224], "class_map_path": None, "use_tensorrt": False,
    }  # fmt: skip
    assert {name: getattr(args, name) for name in expected} == expected
    said = capsys.readouterr().out
    assert "PostProcess.SavePreLabel: images are not copied into ./pre_label/, unlike in PaddleClas's" in said
    assert "Global.enable_mkldnn, Global.cpu_num_threads" in said


def test_deploy_of_scores(flags):
    path = "deploy/practical_models/aesthetic_score_predictor/inference_aesthetic_score_predictor.yaml"
    assert flags("predict", path).score_decimals == 2


def test_a_folder_that_infer_py_wrote(flags, tmp_path):
    words = ["-o", f"Global.inference_model_dir={tmp_path / 'net'}"]
    assert flags("predict", DEPLOY, *words).model_file == str(tmp_path / "net")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model").touch()
    assert flags("predict", DEPLOY, *words).model_file == str(tmp_path / "net" / "model")


@pytest.mark.parametrize(
    ("path", "expected", "absent"),
    [
        (
            "ImageNet/MobileViTV3/MobileViTV3_XS.yaml",
            {
                "multi_scale": ["256", "160", "192", "224", "288", "320"], "batch_size": 48, "multi_scale_factor": 32,
                "train_transforms": None, "interpolation": 1,
            },
            {"drop_last", "shuffle", "lower_scale"},
        ),
        (
            "ImageNet/EfficientNetV2/EfficientNetV2_S.yaml",
            {
                "progressive_sizes": ["171", "214", "257", "300"],
                "progressive_magnitudes": [5, 8.3333333333, 11.6666666667, 15],
                "progressive_dropouts": pytest.approx([0.1, 1 / 6, 7 / 30, 0.3]), "image_shape": [3, 384, 384],
                "train_transforms": ["random_resized_crop:scale=0.05/1", "flip", "rand_augment_v2:ops=2:magnitude=5"],
            },
            set(),
        ),
        (
            "ImageNet/CvT/CvT_21_224.yaml",
            {"augment_repeats": 3, "batch_size": 128, "accumulate_steps": 2, "drop_last": True},
            {"shuffle"},
        ),
        (
            "PULC/clarity_assessment/PPLCNet_x1_0.yaml",
            {
                "label_from": "blur", "class_dim": 2, "data_dir": "./dataset/", "val_dir": "./dataset/blur/",
                "train_list": "./dataset/ImageNet_OCR_det.txt",
                "train_transforms": ["blur", "resize:size=224", "flip"],
            },
            {"val_list"},
        ),
        (
            "PULC/image_orientation/PPLCNet_x1_0.yaml",
            {"label_from": "random_rot90", "class_dim": 4, "train_transforms": ["random_resized_crop", "random_rot90"]},
            {"train_list", "val_list"},
        ),
    ],
    ids=lambda value: value.split("/")[-2] if isinstance(value, str) else "",
)  # fmt: skip
def test_training_data(flags, path, expected, absent):
    args = flags("train", path, "-o", "Arch.pretrained=False", "-o", "Arch.use_ssld=False")
    assert {name: getattr(args, name) for name in expected} == expected
    assert not absent & args.given


def test_an_l1_regularizer(flags):
    args = flags("train", MOBILE, "-o", "Optimizer.regularizer.name=L1", "-o", "Optimizer.regularizer.coeff=0.001")
    assert (args.l1_decay, args.l2_decay) == (0.001, 0.0)


def test_a_rate_that_goes_by_validation(flags, error):
    """With PaddlePaddle's defaults; a warm-up would take its place."""
    rate = {"name": "ReduceOnPlateau", "learning_rate": 0.5, "mode": "max", "patience": 3, "by_epoch": True}
    args = flags("train", MOBILE, change=lambda content: content["Optimizer"].update(lr=rate))
    assert (args.lr_strategy, args.lr, args.decay_rate, args.min_lr) == ("reduce_on_plateau", 0.5, 0.1, 0.0)
    assert (args.plateau_mode, args.plateau_patience, args.plateau_threshold) == ("max", 3, 1e-4)
    assert (args.plateau_absolute, args.plateau_cooldown) == (False, 0)
    warmed = rate | {"warmup_epoch": 5}
    line = error("train", MOBILE, change=lambda content: content["Optimizer"].update(lr=warmed))
    assert "Optimizer.lr.warmup_epoch: 5 is not supported: give 0" in line


def test_what_a_multi_scale_dataset_ignores(flags, capsys):
    flags("train", "ImageNet/MobileViTV3/MobileViTV3_XS.yaml")
    assert (
        "interpolation, use_log_aspect has no effect, as PaddleClas's MultiScaleDataset ignores it"
        in capsys.readouterr().out
    )


def rename(section, old: str, new: str) -> None:
    section[new] = section.pop(old)


@pytest.mark.parametrize(
    ("script", "path", "words", "message"),
    [
        ("eval", MOBILE, ["-o", "Global.pretained_model=a"],
         "-o Global.pretained_model=a: Global.pretained_model: unknown key: did you mean pretrained_model?"),
        ("eval", MOBILE, ["-o", "Arch.name=MobileNetV3_large_x1"],
         "Arch.name: unknown network 'MobileNetV3_large_x1': did you mean MobileNetV3_large_x1_0"),
        ("eval", MOBILE, ["-o", "epochs=3"], "-o epochs=3: epochs: unknown key: did you mean Global.epochs?"),
        ("eval", MOBILE, ["-o", "Global.device=cpu", "Global.use_gpu=False"], "give Global.device=cpu or gpu"),
        ("eval", MOBILE, ["-o", "Arch.class_num=many"], "Arch.class_num: 'many' should be a number"),
        ("eval", MOBILE, ["-o", "Arch.stride_list=[2]"], "Arch.stride_list: unknown key"),
        ("eval", MOBILE, ["-o", "Dataloader.Eval=1"], "Dataloader: unknown key: did you mean DataLoader?"),
        ("eval", MOBILE, ["-o", "DataLoader.Eval.dataset.transform_ops.1.ResizeImage.short=3"],
         "ResizeImage has the unknown argument 'short'"),
        ("eval", MOBILE, ["-o", "DataLoader.Eval.dataset.name=Mine"],
         "DataLoader.Eval.dataset.name: Mine is not supported; choose from ImageNetDataset"),
        ("eval", MOBILE, ["-o", "Global.eval_mode=retrieval"], "'retrieval' is not supported"),
        ("infer", MOBILE, ["-o", "Infer.PostProcess.name=Top"], "Infer.PostProcess.name: Top is not supported"),
        ("infer", MOBILE, ["-o", "Infer.PostProcess.name=ScoreOutput"], "ScoreOutput belongs in deploy configurations"),
        ("predict", DEPLOY, ["-o", "PostProcess.ScoreOutput={}", "-o", "PostProcess.main_indicator=ScoreOutput"],
         "PostProcess.ScoreOutput.decimal_places: is missing"),
        ("infer", DEPLOY, [], "PreProcess: a deploy configuration is for predict.py, not infer.py"),
        ("predict", MOBILE, [], "Arch: predict.py takes deploy configurations"),
        ("predict", DEPLOY, ["-o", "PostProcess.main_indicator=Top"], "'Top' is not in this section: Topk"),
        ("predict", DEPLOY, ["-o", "Global.use_int8=True"], "Global.use_int8: int8 programs are not supported"),
        ("eval", "quick_start/kunlun/VGG16_finetune_kunlun.yaml", [], "PaddleClas before 2.0"),
        ("eval", "quick_start/MobileNetV1_retrieval.yaml", [], "retriev"),
        ("train", MOBILE, ["-o", "Optimizer.name=Adamax"], "Optimizer.name: Adamax is not supported; choose from SGD"),
        ("train", MOBILE, ["-o", "Optimizer.lr.nmae=Cosine"], "Optimizer.lr.nmae: unknown key: did you mean name?"),
        ("train", MOBILE, ["-o", "Optimizer.lr.warmup_epoch=five"], "'five' should be a number"),
        ("train", MOBILE, ["-o", "DataLoader.Train.dataset.transform_ops.1.RandCropImage.sizes=9"],
         "RandCropImage.sizes: unknown key: did you mean size?"),
        ("train", MOBILE, ["-o", "Loss.Train.0.CELoss.epsilon=2"], "2 should be a number from 0 to 1"),
        ("train", MOBILE, ["-o", "DataLoader.Train.dataset.delimiter=a"], "'a' should be a few characters, such as"),
        ("train", MOBILE, ["-o", "DataLoader.Train.dataset.relabel=True"], "dataset.relabel: True is not supported"),
        ("train", MOBILE, ["-o", "DataLoader.Train.sampler.name=MultiScaleSampler"],
         "DataLoader.Train.sampler.name: MultiScaleDataset and MultiScaleSampler only work together"),
        ("train", MOBILE, ["-o", "Global.train_mode=dino"], "train_mode: 'dino' is not supported: give progressive"),
        ("train", MOBILE, ["-o", "Global.train_mode=progressive"], "needs RandCropImage with a progress_size"),
        ("train", "ImageNet/PPLCNetV2/PPLCNetV2_base.yaml", ["-o", "DataLoader.Train.sampler.seed=1"],
         "sampler.seed: is not supported: Global.seed draws sizes and order"),
        ("train", "ImageNet/PPLCNetV2/PPLCNetV2_base.yaml", ["-o", "DataLoader.Train.sampler.first_bs=None"],
         "DataLoader.Train.sampler.first_bs: is missing"),
        ("train", MOBILE, ["-o", "DataLoader.Train.dataset.transform_ops=[]"],
         "dataset.transform_ops: no operation gives all images the same size"),
        ("train", "PULC/clarity_assessment/PPLCNet_x1_0.yaml", ["-o", "DataLoader.Train.dataset.label_key=blur"],
         "label_key: 'blur' is not supported; choose from blur_image, random_rot90_orientation"),
        ("train", MOBILE, ["-o", "Metric.Eval.0.TopkAcc.topk=[]"], "TopkAcc.topk: 1 is missing: the accuracy"),
        ("train", MOBILE, ["-o", "Metric.Eval.0.TopkAcc.topk=[5]"], "TopkAcc.topk: 1 is missing: the accuracy"),
        ("train", MOBILE, ["-o", "Loss.Train[0].CELoss.epsilon=0.1"], "Train[0]: unknown key: did you mean Train?"),
        ("train", MOBILE, ["-o", "Arch.class_num=1" + "0" * 400], "0... should be a number"),
        ("train", MOBILE, ["-o", "Optimizer.lr.name=" + "a" * 2000], "a" * 800 + "..."),
        ("train", MOBILE, ["-o", "Global.epochs=0"], "0 should be a whole number above 0"),
    ],
)  # fmt: skip
def test_refused(error, script, path, words, message):
    assert message in error(script, path, *words)


def test_the_line_of_a_refused_key(error):
    said = error("eval", MOBILE, change=lambda content: rename(content["Arch"], "class_num", "class_nmu"))
    assert "config.yaml line 19: Arch.class_nmu: unknown key: did you mean class_num?" in said


def test_weights_that_paddleclas_would_download(flags, error, tmp_path):
    words = ["-o", "Arch.pretrained=True", "-o", "Arch.use_ssld=True"]
    said = error("eval", MOBILE, *words)
    assert "-o Arch.pretrained=True: Arch.pretrained: PaddleClas would download" in said
    assert "MobileNetV3_large_x1_0_ssld_pretrained.pdparams" in said and "--pretrained_model=FILE" in said
    assert flags("eval", MOBILE, *words, "--pretrained_model=mine").pretrained_model == "mine"
    cached = tmp_path / ".paddleclas/weights/MobileNetV3_large_x1_0_ssld_pretrained.pdparams"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert flags("eval", MOBILE, *words).pretrained_model == str(cached)
    assert flags("eval", MOBILE, "-o", "Arch.pretrained=a.pdparams").pretrained_model == "a.pdparams"


def test_an_override_without_a_configuration(capsys):
    with pytest.raises(SystemExit):
        parse("eval", ["-o", "Global.epochs=3"])
    assert "-o Global.epochs=3 overrides a configuration: give its file with -c FILE.yaml" in capsys.readouterr().err


def test_class_names_that_are_not_there(flags, capsys, tmp_path):
    words = ["-o", "Global.pretrained_model=a"]
    assert "class_map_path" not in flags("infer", MOBILE, *words).given
    assert "flowers102_label_list.txt does not exist: give the file of class names with --class_map_path" in (
        capsys.readouterr().out
    )
    (tmp_path / "names.txt").touch()
    names = f"Infer.PostProcess.class_id_map_file={tmp_path / 'names.txt'}"
    assert flags("infer", MOBILE, *words, "-o", names).class_map_path == str(tmp_path / "names.txt")


def test_the_document_is_of_today():
    assert make_configurations.FILE.read_text(encoding="utf-8") == make_configurations.document(), (
        "run: python docs/make_configurations.py"
    )


@pytest.mark.parametrize("folder", ["ImageNet", "PULC", "quick_start", "deploy"])
def test_what_is_accepted_is_taken(folder):
    """Every value that a configuration becomes is one of its flag's, and train.py finds no contradiction in them."""
    scripts = ("predict",) if folder == "deploy" else make_configurations.SCRIPTS
    parsers = {script: build_parser(script) for script in scripts}
    defaults = {flag.name: flag.default_for("train") for flags in GROUPS.values() for flag in flags}
    answers = {path: lines for path, lines in make_configurations.answers().items() if path.startswith(folder)}
    accepted = [path for path, lines in answers.items() if not lines]
    assert len(accepted) / len(answers) >= 0.94
    # Most of those of ImageNet differ by the network's name.
    for path in accepted[:: 5 if folder == "ImageNet" else 1]:
        content = FACTS[path]
        for script, parser in parsers.items():
            found = make_configurations.translation(script, path, content)
            typed = vars(parser.parse_args(found.words())) | dict.fromkeys(found.needed, "weights")
            if script == "train":
                args = Flags(script=script, given=frozenset(typed), typed=frozenset(), **{**defaults, **typed})
                check_train_flags(args)
                resolve_input(args)
                train_transform(args)
                varying_transforms(args, args.batch_size)
