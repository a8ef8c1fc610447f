"""Every command-line flag, declared once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils import MAX_IMAGE_PIXELS
from utils.flags.inputs import BACKENDS, CHANNEL_ORDERS, LARGEST_MEAN, LARGEST_STD, RESIZE_MODES
from utils.flags.kinds import (
    AUTO,
    boolean,
    data_root,
    delimiter,
    device_name,
    fraction,
    frozen_part,
    image_size,
    non_negative,
    non_negative_int,
    number,
    of_pixels,
    part,
    positive,
    positive_int,
    size_range,
    stride,
)

SCRIPTS = {
    "train": "Train a network on a list file or on class folders.",
    "eval": "Evaluate a network's weights: loss, top-1 and top-5 accuracy.",
    "infer": "Classify images with a network's weights, or export the network for predict.py.",
    "predict": "Classify images with an exported network.",
    "ema_clean": "Turn averaged (EMA) parameters into ordinary weights.",
    "convert_weights": "Convert a network's weights, of any supported kind, to another.",
    "convert_model": "Convert a model that PaddlePaddle exported to PyTorch or ONNX.",
    "weights_aggregator": "Fuse the weights of an ACNet as trained into those of its deploy form.",
    "reader": "Show what the network sees of a dataset, or check the dataset.",
}


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: as typed after the two dashes, and the attribute of the namespace.
        kind: turns the typed text into a value; raises `argparse.ArgumentTypeError`.
        default: the value when the flag is not given.
        scripts: the scripts that take it.
        help: its meaning, one or two sentences.
        aliases: older spellings.
        length: for a list: how many values, or "+" for one or more; "?" for a value that may be left out, as it is
            then "*"; None for a single value.
        choices: allowed values, if they are few.
        defaults: scripts whose default is another.
        words: for a list: words that stand for all of its values.
        required: scripts that do not work without it.
    """

    name: str
    kind: Callable[[str], Any]
    default: Any
    scripts: Sequence[str]
    help: str
    aliases: tuple[str, ...] = ()
    length: int | str | None = None
    choices: tuple[Any, ...] | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    def default_for(self, script: str) -> Any:
        """The value this flag has in `script` when it is not given."""
        return self.defaults.get(script, self.default)


T = ("train",)
TE = ("train", "eval")
TEI = ("train", "eval", "infer")
NETWORK = (*TEI, "convert_weights")
CONVERSION = ("convert_weights", "weights_aggregator")
EI = ("eval", "infer")
IP = ("infer", "predict")
EPC = ("eval", "predict", "convert_model")
IC = ("infer", "convert_model")
TEIP = (*TEI, "predict")
TR = (*T, "reader")
TER = (*TE, "reader")
TEIR = (*TEI, "reader")
TEIPR = (*TEIP, "reader")
TEIPRC = (*TEIPR, "convert_model")

LR_STRATEGIES = (
    "piecewise_decay",
    "cosine_decay",
    "cosine_decay_warmup",
    "exponential_decay_warmup",
    "linear_decay",
    "adam_decay",
    "cosine_decay_RMSProp",
    "default_decay",
    "constant",
    "cosine",
    "linear",
    "step",
    "multi_step",
    "piecewise",
    "reduce_on_plateau",
)
OPTIMIZERS = ("momentum", "sgd", "adam", "adamw", "rmsprop")

# fmt: off
GROUPS: dict[str, tuple[Flag, ...]] = {
    "Environment": (
        Flag("use_gpu", boolean, True, TEI,
             "Use the GPU. Left at its default on a machine without one, the CPU is used and the log says so; "
             "given as True without one, it is an error."),
        Flag("device", device_name, None, TEIP,
             "Where to compute: cpu, cuda, cuda:N (GPU number N) or mps (a GPU of Apple's). Counts for more than "
             "--use_gpu and --gpu_id. Not given: as these say."),
        Flag("data_dir", data_root, "./data/ILSVRC2012/", TEIR,
             "Dataset root, with train_list.txt and val_list.txt, or with tar shards train*.tar and val*.tar, or with "
             "class folders train/NAME/ and val/NAME/; or the URL of tar shards, such as s3://bucket/folder. "
             "infer: a folder of images.", defaults={"infer": "./data/ILSVRC2012/val/"}),
        Flag("train_list", data_root, None, TR,
             "The training list, where it is not --data_dir's train_list.txt; its paths are relative to --data_dir. "
             "Where that is a URL: a list of tar shards, in place of train_shards.txt."),
        Flag("val_list", data_root, None, TER,
             "The validation list, where it is not val_list.txt; its paths are relative to --val_dir. For URLs as "
             "--train_list."),
        Flag("val_dir", data_root, None, TER,
             "Root of the validation images, where it is not --data_dir; a folder or a URL."),
        Flag("cache_dir", str, None, TER,
             "Folder for what is read of the tar shards of a URL: all processes of a machine share it, and so do later "
             "epochs and runs. Not given: nothing is kept."),
        Flag("cache_size", positive, 100.0, TER,
             "Most gigabytes (10^9 bytes) in --cache_dir; what was used longest ago makes room."),
        Flag("list_delimiter", delimiter, None, TER,
             "What is between path and label in the lines of lists, such as , or ; or tab; the first one counts, and "
             "what follows a second one does not. Not given: the last blank or tab."),
        Flag("model_save_dir", str, "./output", T, "Root folder for checkpoints."),
        Flag("pretrained_model", str, None, TEI,
             "Weights to start from, in any supported format: a checkpoint of ours, a fluid folder of variables, "
             "a state dict, a .caffemodel. eval: or --model_file.", required=("infer",)),
        Flag("finetune_exclude_pretrained_params", str, None, T,
             "Comma-separated names, published or PyTorch's, of parameters that are not loaded from "
             "--pretrained_model. What is no parameter's whole name is part of one: all that contain it are left out."),
        Flag("skip_misfits", boolean, False, T,
             "Parameters of another shape than in --pretrained_model, such as a classifier of other classes, start "
             "anew."),
        Flag("pretrained_key", str, None, (*TEI, *CONVERSION),
             "What the network is under in the file of weights, of several that it holds: model_ema, student. Not "
             "given: what fits, and of a network and its average the network itself."),
        Flag("checkpoint", str, None, T,
             "Saved training state to resume from: a checkpoint folder, or auto for the complete one of this run that "
             "was written last; where there is none it starts afresh, from --pretrained_model if that is given. Or "
             "PaddlePaddle's: a folder of fluid's variables, or PREFIX of PaddleClas's PREFIX.pdparams and .pdopt."),
        Flag("start_epoch", non_negative_int, None, T,
             "--checkpoint of PaddlePaddle's: the epoch to go on with, from 0. Not given: what the state or its name "
             "tells, else its counter of steps."),
        Flag("print_step", positive_int, 10, TE, "Steps between log lines.", defaults={"eval": 1}),
        Flag("save_step", positive_int, 1, T, "Epochs between checkpoints."),
        Flag("save_iter", non_negative_int, 0, T, "Steps between checkpoints within an epoch; 0: none."),
        Flag("keep_checkpoints", non_negative_int, 0, T,
             "Epoch checkpoints to keep, the last written first, beside best_model and latest; 0: all."),
    ),
    "Network and solver": (
        Flag("model", str, "ResNet50", (*TEI, *CONVERSION),
             "Network name. eval, infer, convert_weights: not given, the one that the weights note.",
             required=("weights_aggregator",)),
        Flag("list_models", str, None, T,
             "Print the networks, or those whose names match a pattern such as 'ResNet*_vd', and end: their size, "
             "multiply-adds, input, published latency and accuracy, and whose that is.", length="?"),
        Flag("recommend", str, None, T,
             "Print the networks, of all or those of --list_models, that no other one beats in published accuracy for "
             "as little --cost, and end; NAME.png: draw them, too.", length="?"),
        Flag("max_params", positive, None, T,
             "--list_models, --recommend: networks of up to so many million parameters."),
        Flag("max_macs", positive, None, T,
             "--list_models, --recommend: those of up to so many thousand million multiply-adds for one image."),
        Flag("max_latency", positive, None, T,
             "--list_models, --recommend: those of which a latency of up to so many milliseconds was published (Tesla "
             "P4, TensorRT)."),
        Flag("sort", str, "name", T, "--list_models: the order.",
             choices=("name", "accuracy", "params", "macs", "latency")),
        Flag("cost", str, None, T,
             "--recommend: what accuracy is set against. Not given: macs; with --measure time.",
             choices=("macs", "params", "latency", "time")),
        Flag("measure", number(float, 1, 86400), None, T,
             "--list_models, --recommend: measure networks on this machine's processor, one image on one thread, for "
             "about so many seconds in all."),
        Flag("total_images", positive_int, 1281167, T,
             "Number of training images, for the schedule, whose epochs have that over --batch_size steps, rounded up. "
             "Not given and the list is not ImageNet's: the images that an epoch trains on."),
        Flag("class_dim", number(int, 2), 1000, (*TEI, *CONVERSION, "reader"),
             "Number of classes. eval, infer, convert_weights: not given, the one that the weights note."),
        Flag("image_shape", positive_int, [3, 224, 224], (*TEIPRC, "convert_weights"),
             "Channels, height, width of the network's input. Not given: in eval and infer what train.py noted in the "
             "weights, else the network's own size; in predict what the export says.", length=3),
        Flag("num_epochs", positive_int, 120, T, "Number of epochs."),
        Flag("batch_size", positive_int, 8, TEIPRC,
             "Images per step over all devices and processes; must divide evenly. infer, predict: images that each "
             "process runs at once. convert_model: of --calibration_dir. train: auto tries how many images fit into "
             "the GPU or, on a CPU, make training faster.",
             defaults={"eval": 256, "reader": 32}, words={"auto": AUTO}),
        Flag("test_batch_size", positive_int, 16, T, "The same for validation."),
        Flag("lr", positive, 0.1, T, "Base learning rate, for the whole batch."),
        Flag("lr_strategy", str, "piecewise_decay", T,
             f"Schedule and optimizer: {', '.join(LR_STRATEGIES[:8])} (constant); or PaddleClas's schedules, each "
             f"after a warm-up: {', '.join(LR_STRATEGIES[8:14])}; or reduce_on_plateau, by the top-1 of the "
             "validation. Unknown: a warning, and constant."),
        Flag("min_lr", non_negative, 0.0, T,
             "Cosine strategies, linear: rate at the end of the run. reduce_on_plateau: the lowest."),
        Flag("optimizer", str, None, T, "Optimizer. Not given: that of --lr_strategy.", choices=OPTIMIZERS),
        Flag("l2_decay", non_negative, 1e-4, T,
             "L2 penalty added to the gradient of every parameter, batch-norm and bias included, except where a "
             "network overrides it. Not with --optimizer=adamw."),
        Flag("l1_decay", non_negative, 0.0, T,
             "L1 penalty: so many times a parameter's sign are added to its gradient, for all but those whose decay a "
             "network overrides. Beside --l2_decay; not with --optimizer=adamw."),
        Flag("weight_decay", non_negative, 0.05, T,
             "--optimizer=adamw, in place of --l2_decay: decoupled decay of the weights, but not of norms, biases, "
             "class tokens and embeddings of positions."),
        Flag("layer_decay", number(float, 0.01, 1), 1.0, T,
             "--optimizer=adamw, ViT, DeiT, foundation models: each layer learns at this share of the next one's rate. "
             "For finetuning, such as 0.65. 1: all learn at the same rate."),
        Flag("momentum_rate", part, 0.9, T, "Momentum."),
        Flag("nesterov", boolean, False, T, "Nesterov's momentum, of --optimizer=momentum."),
        Flag("adam_betas", part, [0.9, 0.999], T, "adam, adamw: how much the two moments keep at a step.",
             length=2),
        Flag("optimizer_epsilon", positive, None, T,
             "adam, adamw, rmsprop: keeps what is divided by from 0. Not given: 1e-8, rmsprop 1e-6."),
        Flag("rmsprop_rho", part, 0.95, T, "--optimizer=rmsprop: how much the mean square keeps at a step."),
        Flag("no_weight_decay", str, None, T,
             "Parameters are not decayed whose name in PaddleClas's files contains one of these, or none. Not given: "
             "adamw spares class tokens and embeddings of positions.", length="+"),
        Flag("decay_vectors", boolean, None, T,
             "Decay norms and biases as well. Not given: adamw spares them, the others do not."),
        Flag("lr_mult", non_negative, None, T,
             "PP-LCNet, ResNet: shares of the learning rate at which the stem and each stage learn, such as 0 0.4 0.4 "
             "0.8 0.8 1.", length="+"),
        Flag("freeze", frozen_part, 0, T,
             "Keep a part of the network as it is, with batch-norm statistics: the stem and so many stages, such as "
             "2, or backbone, all but the classifier. 0: nothing."),
        Flag("clip_norm", non_negative, 0.0, T,
             "Largest norm of all gradients together; longer ones are scaled down to it. 0: no limit."),
        Flag("clip_norm_each", non_negative, 0.0, T,
             "Largest norm of the gradient of each parameter; a longer one is scaled down to it. 0: no limit."),
        Flag("step_epochs", positive_int, [30, 60, 90], T,
             "Epochs at which piecewise_decay multiplies the rate by 0.1, multi_step by --decay_rate, and piecewise "
             "takes the next of --lr_values.", length="+"),
        Flag("warm_up_epochs", non_negative, 5.0, T, "Length of the warm-up."),
        Flag("warm_up_start_lr", non_negative, 0.0, T, "PaddleClas's schedules: rate at the start of the warm-up."),
        Flag("lr_by_epoch", boolean, False, T, "PaddleClas's schedules: the rate changes once an epoch."),
        Flag("decay_epochs", positive, 2.4, T, "exponential_decay_warmup, step: epochs per decay."),
        Flag("decay_rate", number(float, 0, 1, above=True), 0.97, T,
             "exponential_decay_warmup, step, multi_step, reduce_on_plateau: factor per decay."),
        Flag("plateau_patience", number(int, 0, 10**6), 10, T,
             "reduce_on_plateau: validations in a row that may bring nothing better before the rate falls."),
        Flag("plateau_threshold", non_negative, 1e-4, T,
             "reduce_on_plateau: by what share of the best top-1 a better one has to be above it."),
        Flag("plateau_absolute", boolean, False, T, "--plateau_threshold is a difference, no share."),
        Flag("plateau_cooldown", number(int, 0, 10**6), 0, T,
             "reduce_on_plateau: validations after a fall that do not count."),
        Flag("plateau_mode", str, "max", T,
             "reduce_on_plateau: whether a top-1 is better if it is larger. (PaddleClas's default is min.)",
             choices=("max", "min")),
        Flag("lr_values", non_negative, None, T,
             "piecewise: the rates before, between and after --step_epochs, in place of --lr.", length="+"),
        Flag("lr_power", positive, 1.0, T, "linear: power of the share of the run that is left."),
        Flag("lr_cycle", boolean, False, T, "linear: begin anew at the end, over a longer time."),
        Flag("drop_connect_rate", number(float, 0, 0.999), 0.2, T,
             "EfficientNet, TinyNet: rate of dropped residual branches."),
        Flag("drop_path", number(float, 0, 0.999), None, T,
             "Stochastic depth, for networks that have it: rate of dropped residual branches in the last block; as a "
             "rule it grows linearly from 0 in the first. Not given: the network's own."),
        Flag("dropout", number(float, 0, 0.999), None, T,
             "Rate of the dropout before the classifier, for networks that have one. Not given: the network's own."),
        Flag("block_dropout", number(float, 0, 0.999), None, T,
             "MobileViT: rate of the dropout in its blocks. Not given: 0.1."),
        Flag("strides", stride, None, NETWORK,
             "PP-LCNet, ResNet and ResNet-D: strides of the stem and of the four stages, each a number or "
             "HEIGHTxWIDTH, such as 2 2x1 2x1 2x1 2x1 for lines of text. Not given: 2 each.", length=5),
        Flag("use_last_conv", boolean, True, NETWORK, "PP-LCNet: the convolution before the classifier."),
        Flag("class_expand", positive_int, 1280, NETWORK, "PP-LCNet: channels of that convolution."),
        Flag("padding_type", str, "SAME", NETWORK, "EfficientNet: padding.", choices=("SAME", "VALID", "DYNAMIC")),
        Flag("use_se", boolean, True, NETWORK, "EfficientNet: squeeze-and-excitation."),
        Flag("deploy", boolean, False, (*EI, "convert_weights"), "ACNet: the weights are those of the fused network."),
    ),
    "Reader": (
        Flag("use_dali", boolean, False, TER, "Read with NVIDIA DALI (optional package) instead of OpenCV."),
        Flag("train_transforms", str, None, TR,
             "The whole training pipeline between decoding and normalisation, in its order, in place of the flags of "
             "training crops, flips and augmentation: words NAME or NAME:option=value:option, such as "
             "'random_resized_crop:interpolation=bicubic:backend=pil flip timm_augment:policy=rand-m9-mstd0.5-inc1 "
             "random_erasing:p=0.25:mode=pixel' (docs/augmentation.md).", length="+"),
        Flag("label_from", str, None, TR,
             "--train_transforms: the label of a training image is what this word has drawn, in place of the list's: "
             "blur (0 sharp, 1 blurred) or random_rot90 (quarter turns, 0 to 3).", choices=("blur", "random_rot90")),
        Flag("multi_scale", image_size, None, TR,
             "Train in batches of random sizes, N or HEIGHTxWIDTH, in place of --image_shape; --batch_size is of the "
             "first, and the others have about as many pixels. The sizes of the batches are the same in each epoch. "
             "Evaluation stays at --image_shape.", length="+"),
        Flag("multi_scale_factor", number(int, 1, 1024), 32, TR,
             "Heights and widths of --multi_scale are rounded down to multiples of this."),
        Flag("progressive_sizes", image_size, None, TR,
             "Train in as many parts of the run, one after the other, at these sizes, N or HEIGHTxWIDTH, in place of "
             "--image_shape. Evaluation stays at --image_shape.", length="+"),
        Flag("progressive_magnitudes", number(float, 0, 30), None, TR,
             "--progressive_sizes: magnitude of RandAugment in each part.", length="+"),
        Flag("progressive_dropouts", number(float, 0, 0.999), None, T,
             "--progressive_sizes: rate of the dropout before the classifier in each part.", length="+"),
        Flag("lower_scale", number(float, 0, 1, above=True), 0.08, TR, "Smallest area of a training crop, as a share."),
        Flag("lower_ratio", number(float, 0.05, 20), 3 / 4, TR, "Smallest aspect ratio of a training crop."),
        Flag("upper_ratio", number(float, 0.05, 20), 4 / 3, TR, "Largest aspect ratio of a training crop."),
        Flag("flip_prob", fraction, 0.5, TR,
             "Probability that a training image is mirrored left to right. 0 where that makes another class of it: "
             "arrows, letters, hands."),
        Flag("vertical_flip_prob", fraction, 0.0, TR,
             "Probability that a training image is mirrored top to bottom, as for photographs from above."),
        Flag("resize_short_size", positive_int, 256, (*TEIP, "convert_model"),
             "Evaluation: length of the short side before the centre crop, or more where the crop needs it. Not given: "
             "as for --image_shape.",
             aliases=("base_size",)),
        Flag("use_mixup", boolean, False, TR, "Mixup."),
        Flag("mixup_alpha", number(float, 0.001, 1000), 0.2, TR, "Mixup: both parameters of the beta distribution."),
        Flag("use_cutmix", boolean, False, TR, "CutMix; with --use_mixup, each batch has one of the two."),
        Flag("cutmix_alpha", number(float, 0.001, 1000), 1.0, TR, "CutMix: both parameters of the beta distribution."),
        Flag("mixup_prob", fraction, None, TR,
             "Share of batches that mixup mixes; the others are left to --cutmix_prob, or as they are. Not given: all, "
             "or half of them beside CutMix."),
        Flag("cutmix_prob", fraction, None, TR, "The same for CutMix."),
        Flag("use_aa", boolean, False, TR, "AutoAugment, ImageNet policy."),
        Flag("use_ra", boolean, False, TR, "RandAugment."),
        Flag("ra_num_ops", number(int, 1, 14), 2, TR, "RandAugment: operations per image."),
        Flag("ra_magnitude", number(float, 0, 30), 9, TR, "RandAugment: magnitude of the operations, 0 to 30."),
        Flag("random_rotation", number(float, 0, 180), 0.0, TR, "Rotation by up to so many degrees to either side."),
        Flag("color_jitter", number(float, 0, 2), [0.0], TR,
             "Strength of colour jitter: one value for brightness, contrast and saturation, or one for each and "
             "perhaps a fourth for the hue.", length="+"),
        Flag("use_cutout", boolean, False, TR, "Cutout: hide a square."),
        Flag("cutout_length", positive_int, 112, TR, "Cutout: side of the square in pixels."),
        Flag("random_erasing", fraction, 0.0, TR, "Random erasing: probability of a rectangle of noise."),
        Flag("use_hide_and_seek", boolean, False, TR, "Hide-and-Seek: hide random cells of a grid."),
        Flag("use_gridmask", boolean, False, TR, "GridMask: hide squares on a regular grid."),
        Flag("reader_thread", non_negative_int, 8, TEIPRC,
             "Reader worker processes; 0 reads in the main process. Never more than there are processors.",
             defaults={"infer": 1, "predict": 1, "convert_model": 1}),
        Flag("reader_buf_size", positive_int, 2048, TEIPRC, "Images read ahead."),
        Flag("interpolation", number(int, 0, 4), None, TEIPRC,
             "Resizing, by number or name: 0 nearest, 1 bilinear, 2 bicubic, 3 area, 4 lanczos. Not given: as for "
             "--image_shape.", words={"nearest": 0, "bilinear": 1, "bicubic": 2, "area": 3, "lanczos": 4}),
        Flag("resize_mode", str, "short", TEIPRC,
             "Evaluation: short resizes the short side and takes the centre; exact resizes to --image_shape; pad "
             "resizes as far as fits into it; crop takes the centre and resizes that. Training takes random crops, "
             "but the whole image for exact and pad with --lower_scale=1. Not given: as for --image_shape.",
             choices=RESIZE_MODES),
        Flag("resize_backend", str, "cv2", TEIPRC,
             "What resizes: cv2 (OpenCV), or pil (Pillow, which averages where it shrinks). Not given: as for "
             "--image_shape.", choices=BACKENDS),
        Flag("decode_backend", str, "cv2", TEIPRC,
             "What decodes: cv2 (OpenCV), or pil (Pillow, without EXIF orientation). Not given: as for --image_shape.",
             choices=BACKENDS),
        Flag("max_image_pixels", positive_int, MAX_IMAGE_PIXELS, TEIPRC,
             "The pixels that an image may have; one of more is unreadable. Decoding takes up to 6 bytes for each, in "
             "every reader worker."),
        Flag("channel_order", str, "rgb", TEIPRC,
             "Order of the channels of the network's input. Not given: as for --image_shape.",
             choices=CHANNEL_ORDERS),
        Flag("background", number(int, 0, 255), None, TEIPRC,
             "What transparent images lie on: a colour, three levels of RGB, or white or black; drop: nothing, they "
             "show the colours under their transparency. Not given: as for --image_shape.",
             length=3, words={"white": [255, 255, 255], "black": [0, 0, 0], "drop": None}),
        Flag("image_depth_range", number(int, 0, 65535), None, TEIPRC,
             "The two values of images of 16 bits that become 0 and 255, such as 0 4095 for 12 bits; full: the upper 8 "
             "bits are kept. Not given: as for --image_shape.",
             length=2, words={"full": None}),
        Flag("image_mean", of_pixels(LARGEST_MEAN), [0.485, 0.456, 0.406], TEIPRC,
             "Mean per channel, in --channel_order, for pixels scaled to 0..1. Not given: as for --image_shape.",
             length=3),
        Flag("image_std", of_pixels(LARGEST_STD, above=True), [0.229, 0.224, 0.225], TEIPRC,
             "Standard deviation per channel, in --channel_order, for pixels scaled to 0..1. Not given: as for "
             "--image_shape.",
             length=3),
        Flag("show", str, None, ("reader",),
             "Write a picture of the first training batch, with its labels, to this file."),
        Flag("check", str, None, ("reader",),
             "Read every image once, of train and val or of the part given, and report unreadable and damaged files, "
             "wrong suffixes, odd sizes, duplicates (within a part, and of val in train), small classes.", length="?"),
        Flag("check_path", str, None, ("reader",),
             "--check: file for all that was found, NAME.csv, a line per image and problem."),
        Flag("split", number(float, 0, 1, above=True, below=True), None, ("reader",),
             "Hold out this share of every class for validation, such as 0.2: train_list.txt and val_list.txt are "
             "written into --data_dir, a folder of class folders. --random_seed draws others."),
        Flag("group_duplicates", boolean, True, ("reader",),
             "--split: keep near-duplicates on one side, for which every image is read; False: draw from the names."),
    ),
    "Switches": (
        Flag("class_weights", str, None, T,
             "Weights of the classes in the loss, for classes of few images: balanced (1 / images), sqrt (its root), "
             "effective (by the effective number of images), or a file of a weight per line. Images of one label."),
        Flag("effective_beta", number(float, 0, 1, below=True), 0.999, T,
             "--class_weights=effective: its beta. 0: all classes weigh the same; towards 1: as with balanced."),
        Flag("focal_gamma", number(float, 0, 100), 0.0, T,
             "Focal loss: an image whose label gets the probability p counts (1 - p)^gamma. 0: cross entropy; 2 is "
             "usual."),
        Flag("balance_classes", str, None, TR,
             "Draw the images of an epoch by class, so that rare classes come more often: full, all equally often; "
             "sqrt, in proportion to the roots of their numbers of images. Images of one label.",
             choices=("full", "sqrt")),
        Flag("validate", boolean, True, T, "Validate after each epoch."),
        Flag("eval_interval", positive_int, 1, T, "Epochs between validations; there is one after the last anyhow."),
        Flag("start_eval_epoch", non_negative_int, 0, T, "Epochs at the beginning that are not validated."),
        Flag("early_stop", non_negative_int, 0, T,
             "End the run after so many validations in a row in which neither the network nor its average was better, "
             "by --best_metric, than all before. 0: after --num_epochs."),
        Flag("eval_topk", positive_int, 5, TE, "The second accuracy counts a hit among so many best classes."),
        Flag("drop_last", boolean, True, T,
             "Leave out the images at the end of an epoch that do not fill a batch; False: they make a smaller one."),
        Flag("augment_repeats", number(int, 1, 100), 1, T,
             "Repeated augmentation: each image comes so often, each time augmented otherwise, in an epoch of as many "
             "images as before (of whole 256s), and so of fewer different ones."),
        Flag("shuffle", boolean, True, T, "Train in another order in each epoch; False: in that of the list."),
        Flag("use_fp16", boolean, False, TEIP,
             "Mixed precision: float32 weights, operations of the type --amp_dtype. predict, and eval with "
             "--model_file: compute in that type altogether; predict: in float16.", aliases=("fp16",)),
        Flag("use_bf16", boolean, False, ("predict",), "Compute in bfloat16."),
        Flag("use_fp16_test", boolean, False, T, "Mixed precision: validate in it as well."),
        Flag("amp_dtype", str, "auto", TEI,
             "Mixed precision: type of the operations; auto is float16 on a GPU, bfloat16 on a CPU.",
             choices=("auto", "float16", "bfloat16")),
        Flag("scale_loss", positive, 1.0, T, "Mixed precision: initial loss scale."),
        Flag("use_dynamic_loss_scaling", boolean, True, T, "Mixed precision: adapt the loss scale, else keep it."),
        Flag("data_format", str, "NCHW", T,
             "Memory format; NHWC is channels_last. Not given: NHWC on a CPU and in mixed precision, where it is "
             "faster.", choices=("NCHW", "NHWC")),
        Flag("use_compile", boolean, False, (*T, "predict"), "Compile the network (torch.compile)."),
        Flag("use_tensorrt", boolean, False, ("predict",),
             "Run an ONNX model with ONNX Runtime's TensorRT provider, on a GPU."),
        Flag("fuse_elewise_add_act_ops", boolean, False, T,
             "Fuse operations: what PyTorch has for it is compilation, so this turns on --use_compile."),
        Flag("fuse_bn_act_ops", boolean, False, T, "The same as --fuse_elewise_add_act_ops here."),
        Flag("update_freq", positive_int, 1, T,
             "Batches whose gradients are averaged before a step: the same as --batch_size and --accumulate_steps "
             "times that."),
        Flag("accumulate_steps", positive_int, 1, T,
             "Parts of a batch that go through the network one after the other, for batches that do not fit."),
        Flag("fsdp", boolean, False, T,
             "Each of several processes holds a part of the parameters, gradients and optimizer state, which takes a "
             "network, or a classifier of 100,000 classes, that is too large for one GPU."),
        Flag("sync_bn", boolean, False, T, "Batch-norm statistics over the batches of all processes together."),
        Flag("multi_label", boolean, False, (*TEIR, "predict"),
             "Images have several labels: lines `path 0,1,0,...` of a list, a 0 or 1 for each class, and a sigmoid in "
             "place of the softmax. Not given: eval, infer: what train.py noted in the weights; predict: what the "
             "export says."),
        Flag("threshold", fraction, [0.5], TEIP,
             "--multi_label: probability from which on an image has a label, one for all classes or one for each. "
             "infer, predict: of a network of two classes, the probability from which on an image is of the second; of "
             "one of more classes, that from which on an image gets any.",
             length="+"),
        Flag("label_weights_by_ratio", boolean, False, T,
             "--multi_label: weigh the loss of a label by exp(1 - r) where the image has it and by exp(r) where not; r "
             "is the label's share of the training images."),
        Flag("sum_over_labels", boolean, False, T,
             "--multi_label: the loss of an image is the sum over its labels instead of the mean."),
        Flag("running_variance", str, None, T,
             "Variance of a batch that batch-norms average: PyTorch's is unbiased, PaddlePaddle's biased. Not given: "
             "that of --checkpoint, else unbiased.", choices=("biased", "unbiased")),
        Flag("use_label_smoothing", boolean, False, T, "Label smoothing."),
        Flag("label_smoothing_epsilon", part, 0.1, T, "Label smoothing: share spread over all classes."),
        Flag("use_ema", boolean, False, T, "Keep an exponential moving average of the parameters."),
        Flag("ema_decay", fraction, 0.9999, T, "EMA: decay d; step t (from 0) uses min(d, (1 + t) / (10 + t))."),
        Flag("ema_warm_up", boolean, True, T,
             "EMA: start from zero, with small decays; False, as in PaddleClas: from the network, with --ema_decay."),
        Flag("with_mem_opt", boolean, False, TEI,
             "Activation checkpointing: less memory for more compute. Not in a compiled network."),
        Flag("with_inplace", boolean, True, TEI, "In-place activations."),
    ),
    "Distillation": (
        Flag("use_distill", boolean, False, T, "Knowledge distillation from a teacher.", aliases=("is_distill",)),
        Flag("teacher_model", str, None, T, "The teacher's network name."),
        Flag("teacher_pretrained_model", str, None, T, "The teacher's weights, in any supported format."),
        Flag("teacher_learns", boolean, False, T,
             "The teacher learns beside the student, from --teacher_pretrained_model or from nothing, by the losses "
             "that pull at both (docs/training.md). Checkpoints keep both; the student is validated and used."),
        Flag("teacher_strides", stride, None, T, "--strides of the teacher.", length=5),
        Flag("distill_loss", str, ["soft"], T,
             "soft: the teacher's softened labels beside the hard ones; js: the Jensen-Shannon divergence to the "
             "teacher alone (SSLD). Or losses that are summed, NAME or NAME:option=value:weight=W: ce, soft_ce, kl, "
             "dml, dist, dkd, skd, wsl, multi_label; teacher_ce, teacher_multi_label of a teacher that learns; "
             "distance, mgd, pefd, afd of what layers give (docs/training.md).", length="+"),
        Flag("distill_temperature", number(float, 0.01, 1000), 1.0, T, "soft: temperature on both sides."),
        Flag("distill_weight", fraction, 0.5, T, "soft: share of the teacher's loss; the hard labels have the rest."),
        Flag("unlabeled_list", str, None, TR,
             "js and other losses without labels: a second list of images, relative to --data_dir, whose labels (if "
             "any) are ignored."),
    ),
    "Measuring and debugging": (
        Flag("enable_ce", boolean, False, T,
             "Fix every seed, take deterministic operations where PyTorch has them, and print the kpis lines at "
             "the end."),
        Flag("random_seed", number(int, 0, 2**63 - 1), None, TR, "Fix every source of randomness."),
        Flag("seeds", number(int, 1, 1000), 1, T,
             "Do as many runs, with the seeds --random_seed (not given: 0), the next one and so on, each in its folder "
             "seed_N of --model_save_dir, and print and write mean and deviation of what they come to."),
        Flag("tracker", str, None, T,
             "Record the figures in MLflow or Weights & Biases as well, where these packages are installed; what they "
             "raise never ends the run. Where to is up to their own variables, such as MLFLOW_TRACKING_URI.",
             choices=("mlflow", "wandb")),
        Flag("lr_range_test", str, None, T,
             "Instead of training: try learning rates from 1e-6 to 10, in --max_iter steps (not given: 100); "
             "draw the loss by rate into this file NAME.png, with the figures in NAME.csv, and say which rate to take. "
             "Nothing else is saved."),
        Flag("is_profiler", boolean, False, T,
             "Profile five steps from step --print_step of the first epoch on, then stop."),
        Flag("profiler_path", str, "./profiler_path/", T, "Folder for the profile.", aliases=("profilier_path",)),
        Flag("max_iter", non_negative_int, 0, T, "Stop after that many steps; 0: no limit."),
        Flag("same_feed", non_negative_int, 0, TE, "Feed this many copies of the first image; 0: off."),
    ),
    "Inference": (
        Flag("save_inference", boolean, False, ("infer",),
             "Export the network to NAME/model and NAME/params for predict.py, instead of classifying."),
        Flag("save_inference_dir", str, None, ("infer",),
             "Folder for the export. Not given: one that is called like the network."),
        Flag("inference_format", str, "torch", IC,
             "Format of the export: torch writes NAME/model and NAME/params, onnx NAME/model.onnx, triton "
             "NAME/1/model.onnx in a model of a Triton repository, which is the folder above NAME (both need "
             "requirements-onnx.txt), executorch NAME/model.pte for phones (requirements-mobile.txt).",
             choices=("torch", "onnx", "triton", "executorch")),
        Flag("onnx_opset", number(int, 11, 30), None, IC,
             "Version of ONNX's operators in NAME/model.onnx, for what reads it. Not given: the one that PyTorch "
             "prefers."),
        Flag("onnx_external_data", boolean, False, IC,
             "Write the weights of NAME/model.onnx to NAME/model.onnx.data, as it is done in any case from 2 GB on."),
        Flag("calibration_dir", str, None, IC,
             "Images, as for --image_path, by which an export to onnx or executorch is quantized to int8 as well, into "
             "NAME/model_int8.onnx or .pte; those that the network was trained on will do."),
        Flag("calibration_images", positive_int, 256, IC, "Images of --calibration_dir to use, evenly spread."),
        Flag("topk", positive_int, 1, IP, "Classes per image, best first."),
        Flag("score_decimals", number(int, 0, 8), None, ("predict",),
             "Of a model that PaddlePaddle exported to give scores instead of classes: write these, rounded to so many "
             "decimals."),
        Flag("class_map_path", str, "./utils/tools/readable_label.txt", (*TEIPR, "convert_model"),
             "File of the names of all classes, one `number name` per line, or one name per line in their order. Not "
             "given: train, reader: what --data_dir says; eval, infer: what train.py noted in the weights, and "
             "ImageNet's for published ones; predict: the names stored at export.",
             defaults={"train": None, "reader": None, "predict": None, "eval": None, "convert_model": None}),
        Flag("class_names", str, None, IP,
             "Names of the classes, in their order and without blanks, in place of --class_map_path.", length="+"),
        Flag("attributes", str, None, IP,
             "--multi_label: say what the labels of PaddleClas's PULC networks mean, of a person (26 classes), a "
             "vehicle (19) or a photographed table (6). predict: not given, what inference.yml says.",
             choices=("person", "vehicle", "table")),
        Flag("image_path", str, None, IP,
             "The image, or images: a file, a folder, a list file (.txt), a pattern such as 'photos/*.jpg'. infer: not "
             "given, the folder --data_dir. predict: required, but with --serve_port."),
        Flag("save_json_path", str, None, (*IP, "eval"),
             "File for the results. infer, predict: a line per image, its name, a tab and a JSON object. eval: one "
             "JSON object; with --crop_sweep, a list of one per size.",
             defaults={"infer": "test_res.json"}),
        Flag("resume", boolean, False, IP,
             "Go on with an interrupted run of the same images, --topk and weights, in any number of processes: keep "
             "the results in --save_json_path, or the rows of --features_path, and skip the images whose names have "
             "one."),
        Flag("features_path", str, None, IP,
             "Write the images' features (before the classifier) to this file NAME.npy, a row per image, and their "
             "names to NAME.npy.txt, a line each, instead of classifying. predict: an output of a model that "
             "PaddlePaddle exported, which --output_name chooses."),
        Flag("vis_dir", str, None, ("infer",),
             "Folder for pictures: each image as the network sees it, and its --topk classes as bars beside it. They "
             "have the images' names, with their folders."),
        Flag("grad_cam", boolean, False, ("infer",),
             "In the pictures of --vis_dir, show where the network sees its best class (Grad-CAM)."),
        Flag("model_file", str, None, EPC,
             "The exported network, NAME/model or NAME/model.onnx; or one that PaddlePaddle exported: the program "
             "(model, __model__, inference.pdmodel, inference.json), its folder, or an archive NAME_infer.tar of it.",
             required=("predict", "convert_model")),
        Flag("params_file", str, None, EPC,
             "Its weights. Not given: the file that was written beside the model file."),
        Flag("output_name", str, None, EPC,
             "Of a model that PaddlePaddle exported with several outputs, the one to use. Not given: the one of shape "
             "(images, classes)."),
        Flag("engine", str, "auto", ("eval", "predict"),
             "What runs the network. auto: for NAME/model.onnx onnxruntime, or openvino on a CPU in bfloat16 or int8 "
             "if it is installed. For a program pytorch, or on a CPU another one that is installed and faster, which "
             "is measured once for each processor and network, and kept in the user's cache: now if auto is given, "
             "else in predict.py if the images would take more than a minute.",
             choices=("auto", "pytorch", "onnxruntime", "openvino")),
        Flag("gpu_id", int, 0, ("predict",), "GPU to use; below 0: the CPU."),
        Flag("gpu_mem", positive_int, None, ("predict",),
             "GPU memory that PyTorch or ONNX Runtime may allocate, in MB. Not given: all there is."),
    ),
    "Serving": (
        Flag("serve_port", number(int, 0, 65535), None, ("predict",),
             "Answer requests by HTTP at this port instead of classifying --image_path; 0: any that is free. "
             "--model_file may then be a folder of exports, each in a folder of its own. Needs "
             "requirements-serve.txt."),
        Flag("serve_host", str, "127.0.0.1", ("predict",),
             "Address to listen at. The default is heard on this machine alone; 0.0.0.0 listens to all others."),
        Flag("serve_wait", number(float, 0, 10000), 5.0, ("predict",),
             "Milliseconds that an image waits at most for others of its batch, of up to --batch_size (not given: "
             "16). --reader_thread processes decode (not given: 8, or as many as there are processors)."),
        Flag("serve_requests", positive_int, 128, ("predict",),
             "Requests that are answered at a time; others get the status 429."),
        Flag("serve_images", positive_int, 64, ("predict",), "Images that a request may have."),
        Flag("serve_megabytes", positive_int, 32, ("predict",), "Megabytes (2^20 bytes) that a request may have."),
    ),
    "Evaluation": (
        Flag("crop_num", int, 1, ("eval",),
             "Crops per image: 1 is the centre, 12 the corners, the centre and the whole image of a square of "
             "--base_size, mirrored too, 144 these of three squares at four sizes.", choices=(1, 12, 144)),
        Flag("crop_size", positive_int, None, ("eval",),
             "Side of the network's square input: --image_shape in one number."),
        Flag("crop_sweep", size_range, None, ("eval",),
             "Evaluate at several crop sizes, FIRST:LAST:STEP: 192:352:32. Each keeps the network's share of the "
             "image, or is taken from --base_size."),
        Flag("crop_sweep_path", str, "crop_sweep.csv", ("eval",),
             "crop_sweep: file for the table; the plot goes beside it, .png."),
        Flag("tpr_at_fpr", fraction, None, TE,
             "Networks of two classes: find the threshold that finds most images of class 1 while it takes at most "
             "this share of those of class 0 for them."),
        Flag("best_metric", str, None, T,
             "Figure of the validation by which best_model is chosen. Not given: acc1; with --multi_label map, the "
             "mean average precision; with --tpr_at_fpr tpr.", choices=("acc1", "map", "accuracy", "ma", "f1", "tpr")),
        Flag("label_map", str, None, ("eval",),
             "File that renumbers the classes of the list as the network has them, a line `old new` for each."),
        Flag("per_class_path", str, None, ("eval",),
             "File for a line per class, .csv or .json: its images, accuracy, precision, recall, F1, and what it is "
             "taken for."),
        Flag("confusion_path", str, None, ("eval",),
             "File for the confusion matrix: a picture, .png, .pdf or .svg, or its numbers, .csv or .json."),
        Flag("report", str, None, ("eval",),
             "Write a page, NAME.html, that shows where the network fails: mistakes, labels that are likely wrong "
             "(listed in NAME_suspects.txt, too), confused classes, what probabilities are worth, weak spots."),
        Flag("report_duplicates", boolean, False, ("eval",),
             "--report: go through the training images as well, and name the validation images that have a "
             "near-duplicate among them (listed in NAME_duplicates.csv, too). Needs weights."),
        Flag("report_against", str, None, ("eval",),
             "--report: compare with an earlier result on the same images: a page of --report, or what infer.py or "
             "predict.py wrote to --save_json_path."),
    ),
    "Averaged parameters": (
        Flag("ema_model_dir", str, None, ("ema_clean",), "Checkpoint with averaged parameters.",
             required=("ema_clean",)),
        Flag("cleaned_model_dir", str, None, ("ema_clean",), "Folder for the averaged parameters as weights.",
             required=("ema_clean",)),
    ),
    "Conversion": (
        Flag("input", str, None, CONVERSION, "Weights, of any kind that --pretrained_model takes elsewhere.",
             required=CONVERSION),
        Flag("output", str, None, (*CONVERSION, "convert_model"),
             "What to write: NAME.pth or NAME.safetensors, or, for PaddlePaddle, NAME.pdparams, NAME.tar or a folder "
             "of variables. convert_model: a folder for an export of our own, or NAME.pt2 for torch.export.load.",
             required=(*CONVERSION, "convert_model")),
        Flag("training_state", str, None, ("convert_weights",),
             "Write the whole training of --input, a checkpoint of train.py, for PaddlePaddle to go on with: --output "
             "is a folder of variables (fluid), or PREFIX of PREFIX.pdparams, .pdopt and .pdstates (PaddleClas).",
             choices=("fluid", "PaddleClas")),
        Flag("names_from", str, None, ("convert_weights",),
             "--training_state of a training that began here: one that PaddlePaddle saved of the same network, for the "
             "names that only its program knows."),
        Flag("names", str, None, ("convert_weights",),
             "--output=NAME.pdparams: whose names the tensors get, fluid's (1.x) or PaddleClas's (2 and later). "
             "Not given: PaddleClas's, but for a form of a network that is fluid's alone.",
             choices=("fluid", "PaddleClas")),
    ),
}
# fmt: on


def flags_of(script: str) -> dict[str, list[Flag]]:
    """The flags that `script` takes, by group, in the order of declaration."""
    by_group = {group: [flag for flag in flags if script in flag.scripts] for group, flags in GROUPS.items()}
    return {group: flags for group, flags in by_group.items() if flags}
