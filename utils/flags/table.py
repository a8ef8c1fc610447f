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
    local_path,
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
    "predict": "Classify images with an exported network, or serve it over HTTP.",
    "ema_clean": "Turn averaged (EMA) parameters into ordinary weights.",
    "convert_weights": "Convert a network's weights from any supported format to another.",
    "convert_model": "Convert a model that PaddlePaddle exported to PyTorch or ONNX.",
    "weights_aggregator": "Fuse the weights of a trained ACNet into those of its deploy form.",
    "reader": "Show what the network sees of a dataset, check the dataset, or split it.",
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
        length: for a list: how many values, or "+" for one or more; "?" for a value that may be left out and is then
            "*"; None for a single value.
        choices: allowed values, if they are few.
        defaults: scripts with another default.
        words: for a list: words that stand for all of its values.
        required: scripts that require it.
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
             "Use the GPU. By default, a machine without a GPU falls back to the CPU and logs that; an explicit True "
             "without a GPU is an error."),
        Flag("device", device_name, None, TEIP,
             "Device to compute on: cpu, cuda, cuda:N (GPU number N) or mps (Apple GPU). Overrides --use_gpu and "
             "--gpu_id, which decide if it is omitted."),
        Flag("data_dir", data_root, "./data/ILSVRC2012/", TEIR,
             "Dataset root: train_list.txt and val_list.txt, tar shards train*.tar and val*.tar, or class folders "
             "train/NAME/ and val/NAME/; or the URL of tar shards, such as s3://bucket/folder. infer: a folder of "
             "images.", defaults={"infer": "./data/ILSVRC2012/val/"}),
        Flag("train_list", data_root, None, TR,
             "Training list, if it is not train_list.txt in --data_dir; its paths are relative to --data_dir. If "
             "--data_dir is a URL: a list of tar shards that replaces train_shards.txt."),
        Flag("val_list", data_root, None, TER,
             "Validation list, if it is not val_list.txt; its paths are relative to --val_dir. For URLs, see "
             "--train_list."),
        Flag("val_dir", data_root, None, TER,
             "Root of the validation images, if it is not --data_dir: a folder or a URL."),
        Flag("cache_dir", local_path, None, TER,
             "Folder that caches data read from tar shards at a URL. All processes on a machine share it, and later "
             "epochs and runs reuse it. If omitted, nothing is cached."),
        Flag("cache_size", positive, 100.0, TER,
             "Maximum size of --cache_dir in gigabytes (10^9 bytes); the least recently used data is evicted."),
        Flag("list_delimiter", delimiter, None, TER,
             "Delimiter between path and label in list files, such as , or ; or tab. The first one on a line counts; "
             "anything after a second one is ignored. If omitted: the last space or tab."),
        Flag("model_save_dir", local_path, "./output", T, "Root folder for checkpoints."),
        Flag("pretrained_model", str, None, TEI,
             "Weights to start from, in any supported format: a checkpoint of train.py, a folder of fluid variables, a "
             "state dict, a .caffemodel. eval: give this or --model_file.", required=("infer",)),
        Flag("finetune_exclude_pretrained_params", str, None, T,
             "Comma-separated names of parameters not to load from --pretrained_model, as published or as in PyTorch. "
             "A name that matches no parameter exactly excludes every parameter that contains it."),
        Flag("skip_misfits", boolean, False, T,
             "Initialise parameters afresh if their shape differs from that in --pretrained_model, such as a "
             "classifier for other classes."),
        Flag("pretrained_key", str, None, (*TEI, *CONVERSION),
             "Key of the network in a weight file that holds several, such as model_ema or student. If omitted: the "
             "one that fits; of a network and its average, the network."),
        Flag("checkpoint", str, None, T,
             "Training state to resume: a checkpoint folder, or auto for the newest complete checkpoint of this run "
             "(if there is none, the run starts afresh, from --pretrained_model if given). Also a PaddlePaddle state: "
             "a folder of fluid variables, or PREFIX for PaddleClas's PREFIX.pdparams and PREFIX.pdopt."),
        Flag("start_epoch", non_negative_int, None, T,
             "For a PaddlePaddle --checkpoint: the epoch to continue with, counted from 0. If omitted: taken from the "
             "state or its name, else from its step counter."),
        Flag("print_step", positive_int, 10, TE, "Steps between log lines.", defaults={"eval": 1}),
        Flag("save_step", positive_int, 1, T, "Epochs between checkpoints."),
        Flag("save_iter", non_negative_int, 0, T,
             "Steps between checkpoints within an epoch; 0: only at the end of epochs."),
        Flag("keep_checkpoints", non_negative_int, 0, T,
             "Number of most recent epoch checkpoints to keep, in addition to best_model and latest; 0: all."),
    ),
    "Network and solver": (
        Flag("model", str, "ResNet50", (*TEI, *CONVERSION),
             "Network name. eval, infer, convert_weights: if omitted, the name saved with the weights.",
             required=("weights_aggregator",)),
        Flag("list_models", str, None, T,
             "Print all networks, or those that match a pattern such as 'ResNet*_vd', and exit: parameters, "
             "multiply-adds, input size, published latency and accuracy, and their source.", length="?"),
        Flag("recommend", str, None, T,
             "Print the networks that offer the best published accuracy for their --cost (the Pareto front), of all or "
             "of those --list_models selects, and exit. NAME.png: plot them too.", length="?"),
        Flag("max_params", positive, None, T, "--list_models, --recommend: at most this many million parameters."),
        Flag("max_macs", positive, None, T,
             "--list_models, --recommend: at most this many billion multiply-adds per image."),
        Flag("max_latency", positive, None, T,
             "--list_models, --recommend: at most this published latency in milliseconds (Tesla P4, TensorRT)."),
        Flag("sort", str, "name", T,
             "--list_models: sort order.", choices=("name", "accuracy", "params", "macs", "latency")),
        Flag("cost", str, None, T,
             "--recommend: the cost that accuracy is weighed against. If omitted: macs, or time with --measure.",
             choices=("macs", "params", "latency", "time")),
        Flag("measure", number(float, 1, 86400), None, T,
             "--list_models, --recommend: measure the networks on this machine's CPU (one image, one thread) for about "
             "this many seconds in total."),
        Flag("total_images", positive_int, 1281167, T,
             "Number of training images, which sets the length of an epoch in the learning-rate schedule: total_images "
             "/ --batch_size steps, rounded up. If omitted and the list is not ImageNet's: the images in an epoch."),
        Flag("class_dim", number(int, 2), 1000, (*TEI, *CONVERSION, "reader"),
             "Number of classes. eval, infer, convert_weights: if omitted, the number saved with the weights."),
        Flag("image_shape", positive_int, [3, 224, 224], (*TEIPRC, "convert_weights"),
             "Channels, height and width of the network's input. If omitted: in eval and infer the shape that train.py "
             "saved with the weights, else the network's own; in predict the shape saved in the export.", length=3),
        Flag("num_epochs", positive_int, 120, T, "Number of epochs."),
        Flag("batch_size", positive_int, 8, TEIPRC,
             "Images per step over all devices and processes; must divide evenly. infer, predict: images per batch in "
             "each process. convert_model: images of --calibration_dir per batch. train: auto picks the largest batch "
             "that fits into the GPU's memory, or the fastest one on a CPU.",
             defaults={"eval": 256, "reader": 32}, words={"auto": AUTO}),
        Flag("test_batch_size", positive_int, 16, T, "The same for validation."),
        Flag("lr", positive, 0.1, T, "Base learning rate for the full batch."),
        Flag("lr_strategy", str, "piecewise_decay", T,
             f"Schedule and optimizer: {', '.join(LR_STRATEGIES[:8])} (constant); or a PaddleClas schedule, all with "
             f"warm-up: {', '.join(LR_STRATEGIES[8:14])}; or reduce_on_plateau, which follows the validation's top-1 "
             "accuracy. Any other name gives a warning and a constant rate."),
        Flag("min_lr", non_negative, 0.0, T,
             "Cosine strategies, linear: learning rate at the end of the run. reduce_on_plateau: its lower limit."),
        Flag("optimizer", str, None, T, "Optimizer. If omitted, --lr_strategy chooses it.", choices=OPTIMIZERS),
        Flag("l2_decay", non_negative, 1e-4, T,
             "L2 penalty added to the gradient of every parameter, including batch norm and bias, unless the network "
             "overrides it. Not with --optimizer=adamw."),
        Flag("l1_decay", non_negative, 0.0, T,
             "L1 penalty: this factor times the sign of each parameter is added to its gradient, unless the network "
             "overrides its decay. Works together with --l2_decay; not with --optimizer=adamw."),
        Flag("weight_decay", non_negative, 0.05, T,
             "--optimizer=adamw: decoupled weight decay, which replaces --l2_decay. Does not apply to norms, biases, "
             "class tokens and position embeddings."),
        Flag("layer_decay", number(float, 0.01, 1), 1.0, T,
             "--optimizer=adamw with ViT, DeiT and foundation models: layer-wise learning-rate decay. Each layer's "
             "rate is this factor times that of the next layer. For finetuning, try 0.65. 1: the same rate for all "
             "layers."),
        Flag("momentum_rate", part, 0.9, T, "Momentum."),
        Flag("nesterov", boolean, False, T, "Nesterov momentum, for --optimizer=momentum."),
        Flag("adam_betas", part, [0.9, 0.999], T, "adam, adamw: decay rates of the first and second moment.", length=2),
        Flag("optimizer_epsilon", positive, None, T,
             "adam, adamw, rmsprop: term added to the denominator for numerical stability. If omitted: 1e-8, for "
             "rmsprop 1e-6."),
        Flag("rmsprop_rho", part, 0.95, T, "--optimizer=rmsprop: decay rate of the mean square."),
        Flag("no_weight_decay", str, None, T,
             "Exempt parameters from weight decay whose names in PaddleClas's files contain one of these strings; "
             "none: exempt no parameter. If omitted: adamw exempts class tokens and position embeddings.", length="+"),
        Flag("decay_vectors", boolean, None, T,
             "Apply weight decay to norms and biases too. If omitted: adamw exempts them; other optimizers do not."),
        Flag("lr_mult", non_negative, None, T,
             "PP-LCNet, ResNet: factors on the learning rate of the stem and of each stage, such as 0 0.4 0.4 0.8 0.8 "
             "1.", length="+"),
        Flag("freeze", frozen_part, 0, T,
             "Freeze part of the network, batch norm statistics included: the stem and this many stages, such as 2, or "
             "backbone for everything but the classifier. 0: nothing."),
        Flag("clip_norm", non_negative, 0.0, T,
             "Maximum norm of all gradients together; longer gradients are scaled down to it. 0: no limit."),
        Flag("clip_norm_each", non_negative, 0.0, T,
             "Maximum norm of each parameter's gradient; a longer gradient is scaled down to it. 0: no limit."),
        Flag("step_epochs", positive_int, [30, 60, 90], T,
             "Epochs at which piecewise_decay multiplies the rate by 0.1, multi_step by --decay_rate, and piecewise "
             "takes the next of --lr_values.", length="+"),
        Flag("warm_up_epochs", non_negative, 5.0, T, "Length of the warm-up."),
        Flag("warm_up_start_lr", non_negative, 0.0, T,
             "PaddleClas's schedules: learning rate at the start of the warm-up."),
        Flag("lr_by_epoch", boolean, False, T,
             "PaddleClas's schedules: change the rate once per epoch instead of every step."),
        Flag("decay_epochs", positive, 2.4, T, "exponential_decay_warmup, step: epochs per decay."),
        Flag("decay_rate", number(float, 0, 1, above=True), 0.97, T,
             "exponential_decay_warmup, step, multi_step, reduce_on_plateau: factor per decay."),
        Flag("plateau_patience", number(int, 0, 10**6), 10, T,
             "reduce_on_plateau: consecutive validations without improvement before the rate drops."),
        Flag("plateau_threshold", non_negative, 1e-4, T,
             "reduce_on_plateau: minimum improvement of top-1 that counts, relative to the best so far."),
        Flag("plateau_absolute", boolean, False, T,
             "Make --plateau_threshold an absolute difference instead of a relative one."),
        Flag("plateau_cooldown", number(int, 0, 10**6), 0, T,
             "reduce_on_plateau: validations to ignore after a drop of the rate."),
        Flag("plateau_mode", str, "max", T,
             "reduce_on_plateau: max if a higher top-1 is better. (PaddleClas's default is min.)",
             choices=("max", "min")),
        Flag("lr_values", non_negative, None, T,
             "piecewise: learning rates before, between and after --step_epochs; they replace --lr.", length="+"),
        Flag("lr_power", positive, 1.0, T, "linear: exponent of the polynomial decay."),
        Flag("lr_cycle", boolean, False, T, "linear: restart at the end, over a longer period."),
        Flag("drop_connect_rate", number(float, 0, 0.999), 0.2, T,
             "EfficientNet, TinyNet: drop rate of the residual branches."),
        Flag("drop_path", number(float, 0, 0.999), None, T,
             "Stochastic depth: drop rate of the last block's residual branch, for networks that support it; usually "
             "the rate grows linearly from 0 in the first block. If omitted: the network's own."),
        Flag("dropout", number(float, 0, 0.999), None, T,
             "Dropout rate before the classifier, for networks with such a dropout. If omitted: the network's own."),
        Flag("block_dropout", number(float, 0, 0.999), None, T,
             "MobileViT: dropout rate in the blocks. If omitted: 0.1."),
        Flag("strides", stride, None, NETWORK,
             "PP-LCNet, ResNet and ResNet-D: strides of the stem and the four stages, each a number or HEIGHTxWIDTH, "
             "such as 2 2x1 2x1 2x1 2x1 for lines of text. If omitted: 2 each.", length=5),
        Flag("use_last_conv", boolean, True, NETWORK, "PP-LCNet: use a convolution before the classifier."),
        Flag("class_expand", positive_int, 1280, NETWORK, "PP-LCNet: channels of that convolution."),
        Flag("padding_type", str, "SAME", NETWORK, "EfficientNet: padding.", choices=("SAME", "VALID", "DYNAMIC")),
        Flag("use_se", boolean, True, NETWORK, "EfficientNet: squeeze-and-excitation."),
        Flag("deploy", boolean, False, (*EI, "convert_weights"), "ACNet: the weights are those of the fused network."),
    ),
    "Reader": (
        Flag("use_dali", boolean, False, TER, "Read with NVIDIA DALI (optional package) instead of OpenCV."),
        Flag("train_transforms", str, None, TR,
             "The whole training pipeline between decoding and normalisation, in order; it replaces the flags for "
             "training crops, flips and augmentation. Words NAME or NAME:option=value:option, such as "
             "'random_resized_crop:interpolation=bicubic:backend=pil flip timm_augment:policy=rand-m9-mstd0.5-inc1 "
             "random_erasing:p=0.25:mode=pixel' (docs/augmentation.md).", length="+"),
        Flag("label_from", str, None, TR,
             "--train_transforms: use what this word drew as the image's label, instead of the label in the list: blur "
             "(0 sharp, 1 blurred) or random_rot90 (quarter turns, 0 to 3).", choices=("blur", "random_rot90")),
        Flag("multi_scale", image_size, None, TR,
             "Train in batches of random sizes, each N or HEIGHTxWIDTH, instead of --image_shape. --batch_size applies "
             "to the first size; batches of other sizes have about as many pixels. Every epoch has the same sequence "
             "of sizes. Evaluation stays at --image_shape.", length="+"),
        Flag("multi_scale_factor", number(int, 1, 1024), 32, TR,
             "Heights and widths of --multi_scale are rounded down to multiples of this."),
        Flag("progressive_sizes", image_size, None, TR,
             "Progressive resizing: split the run into equal parts and train each at one of these sizes, N or "
             "HEIGHTxWIDTH, instead of --image_shape. Evaluation stays at --image_shape.", length="+"),
        Flag("progressive_magnitudes", number(float, 0, 30), None, TR,
             "--progressive_sizes: RandAugment magnitude for each part.", length="+"),
        Flag("progressive_dropouts", number(float, 0, 0.999), None, T,
             "--progressive_sizes: dropout rate before the classifier for each part.", length="+"),
        Flag("lower_scale", number(float, 0, 1, above=True), 0.08, TR,
             "Smallest area of a training crop, as a fraction of the image."),
        Flag("lower_ratio", number(float, 0.05, 20), 3 / 4, TR, "Smallest aspect ratio of a training crop."),
        Flag("upper_ratio", number(float, 0.05, 20), 4 / 3, TR, "Largest aspect ratio of a training crop."),
        Flag("flip_prob", fraction, 0.5, TR,
             "Probability of mirroring a training image left to right. Use 0 if that changes the class: arrows, "
             "letters, hands."),
        Flag("vertical_flip_prob", fraction, 0.0, TR,
             "Probability of mirroring a training image top to bottom; useful for aerial photographs."),
        Flag("resize_short_size", positive_int, 256, (*TEIP, "convert_model"),
             "Evaluation: length of the short side before the centre crop; it grows if the crop needs more. If "
             "omitted: chosen like --image_shape.", aliases=("base_size",)),
        Flag("use_mixup", boolean, False, TR, "Mixup."),
        Flag("mixup_alpha", number(float, 0.001, 1000), 0.2, TR, "Mixup: both parameters of the beta distribution."),
        Flag("use_cutmix", boolean, False, TR, "CutMix; with --use_mixup, each batch gets one of the two."),
        Flag("cutmix_alpha", number(float, 0.001, 1000), 1.0, TR, "CutMix: both parameters of the beta distribution."),
        Flag("mixup_prob", fraction, None, TR,
             "Fraction of batches to apply mixup to; the others are left to --cutmix_prob, or unchanged. If omitted: "
             "all, or half of them with CutMix."),
        Flag("cutmix_prob", fraction, None, TR, "The same for CutMix."),
        Flag("use_aa", boolean, False, TR, "AutoAugment, ImageNet policy."),
        Flag("use_ra", boolean, False, TR, "RandAugment."),
        Flag("ra_num_ops", number(int, 1, 14), 2, TR, "RandAugment: operations per image."),
        Flag("ra_magnitude", number(float, 0, 30), 9, TR, "RandAugment: magnitude of the operations, 0 to 30."),
        Flag("random_rotation", number(float, 0, 180), 0.0, TR, "Maximum rotation in degrees, to either side."),
        Flag("color_jitter", number(float, 0, 2), [0.0], TR,
             "Strength of colour jitter: one value for brightness, contrast and saturation, or one for each, and "
             "optionally a fourth for hue.", length="+"),
        Flag("use_cutout", boolean, False, TR, "Cutout: hide a square."),
        Flag("cutout_length", positive_int, 112, TR, "Cutout: side of the square in pixels."),
        Flag("random_erasing", fraction, 0.0, TR, "Random erasing: probability of a rectangle of noise."),
        Flag("use_hide_and_seek", boolean, False, TR, "Hide-and-Seek: hide random cells of a grid."),
        Flag("use_gridmask", boolean, False, TR, "GridMask: hide squares on a regular grid."),
        Flag("reader_thread", non_negative_int, 8, TEIPRC,
             "Reader worker processes, at most one per processor; 0: read in the main process.",
             defaults={"infer": 1, "predict": 1, "convert_model": 1}),
        Flag("reader_buf_size", positive_int, 2048, TEIPRC, "Images read ahead."),
        Flag("interpolation", number(int, 0, 4), None, TEIPRC,
             "Interpolation for resizing, by number or name: 0 nearest, 1 bilinear, 2 bicubic, 3 area, 4 lanczos. If "
             "omitted: chosen like --image_shape.",
             words={"nearest": 0, "bilinear": 1, "bicubic": 2, "area": 3, "lanczos": 4}),
        Flag("resize_mode", str, "short", TEIPRC,
             "Evaluation: short resizes the short side and takes the centre crop; exact resizes to --image_shape; pad "
             "resizes to fit and fills the rest; crop takes the centre and resizes it. Training takes random crops; "
             "with exact or pad and --lower_scale=1, it resizes the whole image. If omitted: chosen like "
             "--image_shape.", choices=RESIZE_MODES),
        Flag("resize_backend", str, "cv2", TEIPRC,
             "Library for resizing: cv2 (OpenCV) or pil (Pillow, which antialiases when it shrinks). If omitted: "
             "chosen like --image_shape.", choices=BACKENDS),
        Flag("decode_backend", str, "cv2", TEIPRC,
             "Library for decoding: cv2 (OpenCV) or pil (Pillow, which ignores EXIF orientation). If omitted: chosen "
             "like --image_shape.", choices=BACKENDS),
        Flag("max_image_pixels", positive_int, MAX_IMAGE_PIXELS, TEIPRC,
             "Maximum number of pixels per image; larger images count as unreadable. Decoding takes up to 6 bytes per "
             "pixel in every reader worker."),
        Flag("channel_order", str, "rgb", TEIPRC,
             "Channel order of the network's input. If omitted: chosen like --image_shape.", choices=CHANNEL_ORDERS),
        Flag("background", number(int, 0, 255), None, TEIPRC,
             "Background for transparent images: three levels (RGB), white or black; drop ignores transparency and "
             "shows the colours underneath. If omitted: chosen like --image_shape.",
             length=3, words={"white": [255, 255, 255], "black": [0, 0, 0], "drop": None}),
        Flag("image_depth_range", number(int, 0, 65535), None, TEIPRC,
             "The two values of 16-bit images to map to 0 and 255, such as 0 4095 for 12-bit data; full: keep the "
             "upper 8 bits. If omitted: chosen like --image_shape.", length=2, words={"full": None}),
        Flag("image_mean", of_pixels(LARGEST_MEAN), [0.485, 0.456, 0.406], TEIPRC,
             "Mean per channel, in --channel_order, for pixels scaled to 0..1. If omitted: chosen like --image_shape.",
             length=3),
        Flag("image_std", of_pixels(LARGEST_STD, above=True), [0.229, 0.224, 0.225], TEIPRC,
             "Standard deviation per channel, in --channel_order, for pixels scaled to 0..1. If omitted: chosen like "
             "--image_shape.", length=3),
        Flag("show", local_path, None, ("reader",),
             "Save a picture of the first training batch, with labels, to this file."),
        Flag("check", str, None, ("reader",),
             "Read every image of train and val, or of the part given, once and report unreadable and damaged files, "
             "wrong suffixes, odd sizes, duplicates (within a part, and of val in train) and small classes.",
             length="?"),
        Flag("check_path", local_path, None, ("reader",),
             "--check: file for all findings, NAME.csv, one line per image and problem."),
        Flag("split", number(float, 0, 1, above=True, below=True), None, ("reader",),
             "Hold out this fraction of every class for validation, such as 0.2, and write train_list.txt and "
             "val_list.txt into --data_dir, a folder of class folders. --random_seed changes the selection."),
        Flag("group_duplicates", boolean, True, ("reader",),
             "--split: keep near-duplicates on the same side, which requires reading every image; False: split by file "
             "name only."),
    ),
    "Switches": (
        Flag("class_weights", str, None, T,
             "Class weights in the loss, for imbalanced data: balanced (1 / images), sqrt (its square root), effective "
             "(by effective number of images), or a file with one weight per line. Single-label images only."),
        Flag("effective_beta", number(float, 0, 1, below=True), 0.999, T,
             "--class_weights=effective: its beta. 0: equal weights; near 1: like balanced."),
        Flag("focal_gamma", number(float, 0, 100), 0.0, T,
             "Focal loss: an image whose label has probability p is weighted by (1 - p)^gamma. 0: cross entropy; 2 is "
             "usual."),
        Flag("balance_classes", str, None, TR,
             "Sample the images of an epoch by class, so that rare classes appear more often: full, all classes "
             "equally; sqrt, in proportion to the square root of their image counts. Single-label images only.",
             choices=("full", "sqrt")),
        Flag("validate", boolean, True, T, "Validate after each epoch."),
        Flag("eval_interval", positive_int, 1, T, "Epochs between validations; the last epoch is always validated."),
        Flag("start_eval_epoch", non_negative_int, 0, T, "Number of initial epochs without validation."),
        Flag("early_stop", non_negative_int, 0, T,
             "Stop after this many consecutive validations without a new best --best_metric for either the network or "
             "its average. 0: train for all of --num_epochs."),
        Flag("eval_topk", positive_int, 5, TE, "k of the second accuracy reported, top-k."),
        Flag("drop_last", boolean, True, T, "Drop the last, incomplete batch of an epoch; False: train on it."),
        Flag("augment_repeats", number(int, 1, 100), 1, T,
             "Repeated augmentation: show each image this many times per epoch, augmented differently each time. The "
             "epoch keeps its length (in multiples of 256), so it contains fewer different images."),
        Flag("shuffle", boolean, True, T,
             "Shuffle the training images every epoch; False: keep the order of the list."),
        Flag("use_fp16", boolean, False, TEIP,
             "Mixed precision: float32 weights, operations in --amp_dtype. predict, and eval with --model_file: "
             "compute everything in that type, in predict float16.", aliases=("fp16",)),
        Flag("use_bf16", boolean, False, ("predict",), "Compute in bfloat16."),
        Flag("use_fp16_test", boolean, False, T, "Mixed precision: use it in validation as well."),
        Flag("amp_dtype", str, "auto", TEI,
             "Mixed precision: type of the operations; auto: float16 on a GPU, bfloat16 on a CPU.",
             choices=("auto", "float16", "bfloat16")),
        Flag("scale_loss", positive, 1.0, T, "Mixed precision: initial loss scale."),
        Flag("use_dynamic_loss_scaling", boolean, True, T,
             "Mixed precision: adapt the loss scale; False: keep it fixed."),
        Flag("data_format", str, "NCHW", T,
             "Memory format; NHWC is channels_last. If omitted: NHWC on a CPU and in mixed precision, where it is "
             "faster.", choices=("NCHW", "NHWC")),
        Flag("use_compile", boolean, False, (*T, "predict"), "Compile the network (torch.compile)."),
        Flag("use_tensorrt", boolean, False, ("predict",),
             "Run an ONNX model with ONNX Runtime's TensorRT provider, on a GPU."),
        Flag("fuse_elewise_add_act_ops", boolean, False, T,
             "Fuse operations. PyTorch does this by compilation, so it turns on --use_compile."),
        Flag("fuse_bn_act_ops", boolean, False, T, "The same as --fuse_elewise_add_act_ops."),
        Flag("update_freq", positive_int, 1, T,
             "Gradient accumulation: batches to average before each step. Equivalent to multiplying --batch_size and "
             "--accumulate_steps by this."),
        Flag("accumulate_steps", positive_int, 1, T,
             "Split each batch into this many parts that go through the network one after the other, for batches that "
             "do not fit into memory."),
        Flag("fsdp", boolean, False, T,
             "Shard parameters, gradients and optimizer state over the processes, for a network, or a classifier of "
             "100,000 classes, that is too large for one GPU."),
        Flag("sync_bn", boolean, False, T, "Compute batch norm statistics over the batches of all processes."),
        Flag("multi_label", boolean, False, (*TEIR, "predict"),
             "Images have several labels: list lines `path 0,1,0,...` with a 0 or 1 for each class, and a sigmoid "
             "instead of the softmax. If omitted: eval, infer: what train.py saved with the weights; predict: what the "
             "export says."),
        Flag("threshold", fraction, [0.5], TEIP,
             "--multi_label: minimum probability of a label, one value for all classes or one each. Without "
             "--multi_label, in infer and predict: for two classes, the minimum probability of the second; for more, "
             "an image whose best class is below it gets no class.", length="+"),
        Flag("label_weights_by_ratio", boolean, False, T,
             "--multi_label: weight the loss of each label by exp(1 - r) if the image has it, else by exp(r), where r "
             "is the label's share of the training images."),
        Flag("sum_over_labels", boolean, False, T,
             "--multi_label: sum the loss over an image's labels instead of averaging it."),
        Flag("running_variance", str, None, T,
             "Variance that batch norm layers accumulate: unbiased (PyTorch) or biased (PaddlePaddle). If omitted: as "
             "in --checkpoint, else unbiased.", choices=("biased", "unbiased")),
        Flag("use_label_smoothing", boolean, False, T, "Label smoothing."),
        Flag("label_smoothing_epsilon", part, 0.1, T, "Label smoothing: share spread over all classes."),
        Flag("use_ema", boolean, False, T, "Keep an exponential moving average of the parameters."),
        Flag("ema_decay", fraction, 0.9999, T, "EMA: decay d; step t (from 0) uses min(d, (1 + t) / (10 + t))."),
        Flag("ema_warm_up", boolean, True, T,
             "EMA: start from zero with a small decay; False, as in PaddleClas: start from the network with "
             "--ema_decay."),
        Flag("with_mem_opt", boolean, False, TEI,
             "Activation checkpointing: trades compute for memory. Not for compiled networks."),
        Flag("with_inplace", boolean, True, TEI, "In-place activations."),
    ),
    "Distillation": (
        Flag("use_distill", boolean, False, T, "Knowledge distillation from a teacher.", aliases=("is_distill",)),
        Flag("teacher_model", str, None, T, "The teacher's network name."),
        Flag("teacher_pretrained_model", str, None, T, "The teacher's weights, in any supported format."),
        Flag("teacher_learns", boolean, False, T,
             "Train the teacher along with the student, from --teacher_pretrained_model or from scratch, using losses "
             "that update both (docs/training.md). Checkpoints hold both; the student is validated and exported."),
        Flag("teacher_strides", stride, None, T, "--strides of the teacher.", length=5),
        Flag("distill_loss", str, ["soft"], T,
             "soft: cross entropy with the teacher's softened labels plus the hard labels; js: Jensen-Shannon "
             "divergence to the teacher alone (SSLD). Or a sum of losses, NAME or NAME:option=value:weight=W: ce, "
             "soft_ce, kl, dml, dist, dkd, skd, wsl, multi_label; teacher_ce, teacher_multi_label for a teacher that "
             "learns; distance, mgd, pefd, afd on feature maps (docs/training.md).", length="+"),
        Flag("distill_temperature", number(float, 0.01, 1000), 1.0, T,
             "soft: temperature of both student and teacher."),
        Flag("distill_weight", fraction, 0.5, T, "soft: weight of the teacher's loss; the hard labels get the rest."),
        Flag("unlabeled_list", str, None, TR,
             "js and other losses without labels: a second list of images, relative to --data_dir; labels in it are "
             "ignored."),
    ),
    "Measuring and debugging": (
        Flag("enable_ce", boolean, False, T,
             "Fix all seeds, use deterministic operations if PyTorch has them, and print the kpis lines at the end."),
        Flag("random_seed", number(int, 0, 2**63 - 1), None, TR, "Seed of all random number generators."),
        Flag("seeds", number(int, 1, 1000), 1, T,
             "Train this many times with consecutive seeds from --random_seed (if omitted, 0) on, each in a folder "
             "seed_N of --model_save_dir; then print and save the mean and standard deviation of the results."),
        Flag("tracker", str, None, T,
             "Also log metrics to MLflow or Weights & Biases, if the package is installed; their errors never end the "
             "run. Configure the destination with their own variables, such as MLFLOW_TRACKING_URI.",
             choices=("mlflow", "wandb")),
        Flag("lr_range_test", local_path, None, T,
             "Learning-rate range test instead of training: try rates from 1e-6 to 10 over --max_iter steps (if "
             "omitted, 100), plot the loss against the rate into this file NAME.png, write the numbers to NAME.csv, "
             "and suggest a rate. Saves nothing else."),
        Flag("is_profiler", boolean, False, T,
             "Profile five steps of the first epoch, starting at step --print_step, then stop."),
        Flag("profiler_path", local_path, "./profiler_path/", T, "Folder for the profile.",
             aliases=("profilier_path",)),
        Flag("max_iter", non_negative_int, 0, T, "Stop after this many steps; 0: no limit."),
        Flag("same_feed", non_negative_int, 0, TE, "Feed this many copies of the first image; 0: off."),
    ),
    "Inference": (
        Flag("save_inference", boolean, False, ("infer",),
             "Export the network to NAME/model and NAME/params for predict.py instead of classifying."),
        Flag("save_inference_dir", local_path, None, ("infer",),
             "Folder for the export. If omitted: named after the network."),
        Flag("inference_format", str, "torch", IC,
             "Export format: torch writes NAME/model and NAME/params; onnx writes NAME/model.onnx; triton writes "
             "NAME/1/model.onnx and its configuration, so that the folder above NAME is a Triton model repository "
             "(onnx and triton need requirements-onnx.txt); executorch writes NAME/model.pte for phones "
             "(requirements-mobile.txt).", choices=("torch", "onnx", "triton", "executorch")),
        Flag("onnx_opset", number(int, 11, 30), None, IC,
             "ONNX opset version of NAME/model.onnx. If omitted: the one PyTorch prefers."),
        Flag("onnx_external_data", boolean, False, IC,
             "Store the weights of NAME/model.onnx in NAME/model.onnx.data; always done above 2 GB."),
        Flag("calibration_dir", str, None, IC,
             "Calibration images for int8 quantization, given like --image_path: an onnx or executorch export also "
             "writes NAME/model_int8.onnx or .pte. Training images are suitable."),
        Flag("calibration_images", positive_int, 256, IC,
             "Number of images to use from --calibration_dir, evenly spaced."),
        Flag("topk", positive_int, 1, IP, "Classes per image, best first."),
        Flag("score_decimals", number(int, 0, 8), None, ("predict",),
             "For PaddlePaddle models whose export returns scores instead of classes: write the scores, rounded to "
             "this many decimals."),
        Flag("class_map_path", str, "./utils/tools/readable_label.txt", (*TEIPR, "convert_model"),
             "File with the names of all classes: one `number name` per line, or one name per line in class order. If "
             "omitted: train, reader: the names in --data_dir; eval, infer: the names that train.py saved with the "
             "weights, and ImageNet's for published weights; predict: the names saved in the export.",
             defaults={"train": None, "reader": None, "predict": None, "eval": None, "convert_model": None}),
        Flag("class_names", str, None, IP,
             "Class names in order, without spaces, as an alternative to --class_map_path.", length="+"),
        Flag("attributes", str, None, IP,
             "--multi_label: describe the labels of PaddleClas's PULC attribute networks in words: person (26 "
             "classes), vehicle (19) or table, a photographed table (6). predict: if omitted, as in inference.yml.",
             choices=("person", "vehicle", "table")),
        Flag("image_path", str, None, IP,
             "Image or images: a file, a folder, a list file (.txt) or a pattern such as 'photos/*.jpg'. infer: if "
             "omitted, the folder --data_dir. predict: required unless --serve_port is given."),
        Flag("save_json_path", local_path, None, (*IP, "eval"),
             "File for the results. infer, predict: one line per image: its name, a tab and a JSON object. eval: a "
             "JSON object; with --crop_sweep, a list with one per size.", defaults={"infer": "test_res.json"}),
        Flag("resume", boolean, False, IP,
             "Resume an interrupted run with the same images, --topk and weights; the number of processes may differ. "
             "Results in --save_json_path, or rows in --features_path, are kept and their images skipped."),
        Flag("features_path", local_path, None, IP,
             "Instead of classifying, write the images' features (before the classifier) to this file NAME.npy, one "
             "row per image, and their names to NAME.npy.txt, one per line. predict: an output of a model exported by "
             "PaddlePaddle, chosen by --output_name."),
        Flag("vis_dir", local_path, None, ("infer",),
             "Folder for pictures: each image as the network sees it, next to a bar chart of its --topk classes. "
             "Pictures keep the images' names and folders."),
        Flag("grad_cam", boolean, False, ("infer",),
             "Overlay the pictures in --vis_dir with a heat map of the best class (Grad-CAM)."),
        Flag("model_file", str, None, EPC,
             "Exported network: NAME/model or NAME/model.onnx; or a PaddlePaddle export: the program (model, "
             "__model__, inference.pdmodel, inference.json), its folder, or an archive NAME_infer.tar of it.",
             required=("predict", "convert_model")),
        Flag("params_file", str, None, EPC, "Weights of --model_file. If omitted: the file saved next to it."),
        Flag("output_name", str, None, EPC,
             "Output to use of a PaddlePaddle export that has several. If omitted: that of shape (images, classes)."),
        Flag("engine", str, "auto", ("eval", "predict"),
             "Engine that runs the network. auto: for NAME/model.onnx, onnxruntime, or openvino if it is installed and "
             "the CPU computes in bfloat16 or int8. For a program, pytorch, or on a CPU a faster engine if one is "
             "installed. Each processor and network is timed once and the result cached in the user's cache folder: "
             "immediately if auto is given explicitly, else in predict.py when the images would take more than a "
             "minute.", choices=("auto", "pytorch", "onnxruntime", "openvino")),
        Flag("gpu_id", int, 0, ("predict",), "GPU to use; negative: the CPU."),
        Flag("gpu_mem", positive_int, None, ("predict",),
             "GPU memory in MB that PyTorch or ONNX Runtime may allocate. If omitted: no limit."),
    ),
    "Serving": (
        Flag("serve_port", number(int, 0, 65535), None, ("predict",),
             "Serve over HTTP on this port instead of classifying --image_path; 0: any free port. --model_file may "
             "then be a folder with one folder per export. Requires requirements-serve.txt."),
        Flag("serve_host", str, "127.0.0.1", ("predict",),
             "Address to listen on. The default accepts connections from this machine only; 0.0.0.0 accepts them from "
             "anywhere."),
        Flag("serve_wait", number(float, 0, 10000), 5.0, ("predict",),
             "Maximum time in milliseconds that an image waits for others to fill its batch of up to --batch_size (if "
             "omitted, 16). --reader_thread processes decode (if omitted, 8, or one per processor if fewer)."),
        Flag("serve_requests", positive_int, 128, ("predict",),
             "Maximum number of concurrent requests; further ones get status 429."),
        Flag("serve_images", positive_int, 64, ("predict",), "Maximum number of images per request."),
        Flag("serve_megabytes", positive_int, 32, ("predict",), "Maximum size of a request in megabytes (2^20 bytes)."),
    ),
    "Evaluation": (
        Flag("crop_num", int, 1, ("eval",),
             "Crops per image: 1: the centre; 12: corners, centre and the whole image of a square of --base_size, and "
             "their mirror images; 144: these for three squares at four sizes.", choices=(1, 12, 144)),
        Flag("crop_size", positive_int, None, ("eval",),
             "Side of the network's square input: short for --image_shape."),
        Flag("crop_sweep", size_range, None, ("eval",),
             "Evaluate at several crop sizes, FIRST:LAST:STEP, such as 192:352:32. Each crop covers the same fraction "
             "of the image as the network's own, or is cut from --base_size if that is given."),
        Flag("crop_sweep_path", local_path, "crop_sweep.csv", ("eval",),
             "--crop_sweep: file for the table; the plot is saved next to it as .png."),
        Flag("tpr_at_fpr", fraction, None, TE,
             "Two-class networks: find the threshold with the highest true-positive rate (class 1) whose "
             "false-positive rate (class 0 taken for class 1) is at most this."),
        Flag("best_metric", str, None, T,
             "Validation metric that selects best_model. If omitted: acc1; with --multi_label map, the mean average "
             "precision; with --tpr_at_fpr tpr.", choices=("acc1", "map", "accuracy", "ma", "f1", "tpr")),
        Flag("label_map", str, None, ("eval",),
             "File that maps class numbers in the list to those of the network, one `old new` per line."),
        Flag("per_class_path", local_path, None, ("eval",),
             "File for per-class results, .csv or .json: number of images, accuracy, precision, recall, F1, and the "
             "class it is most often confused with."),
        Flag("confusion_path", local_path, None, ("eval",),
             "File for the confusion matrix: a picture (.png, .pdf, .svg) or numbers (.csv, .json)."),
        Flag("report", local_path, None, ("eval",),
             "Write an HTML page, NAME.html, on where the network fails: mistakes, labels that are probably wrong "
             "(also listed in NAME_suspects.txt), confused classes, calibration, weak spots."),
        Flag("report_duplicates", boolean, False, ("eval",),
             "--report: also search the training images for near-duplicates of the validation images (listed in "
             "NAME_duplicates.csv). Requires weights."),
        Flag("report_against", str, None, ("eval",),
             "--report: compare with an earlier result on the same images: a --report page, or the --save_json_path "
             "file of infer.py or predict.py."),
    ),
    "Averaged parameters": (
        Flag("ema_model_dir", str, None, ("ema_clean",), "Checkpoint with averaged parameters.",
             required=("ema_clean",)),
        Flag("cleaned_model_dir", local_path, None, ("ema_clean",),
             "Folder to write the averaged parameters to, as ordinary weights.", required=("ema_clean",)),
    ),
    "Conversion": (
        Flag("input", str, None, CONVERSION,
             "Weights to convert, in any format that --pretrained_model takes.", required=CONVERSION),
        Flag("output", local_path, None, (*CONVERSION, "convert_model"),
             "File to write: NAME.pth or NAME.safetensors; for PaddlePaddle NAME.pdparams, NAME.tar or a folder of "
             "variables. convert_model: a folder, for an export that predict.py takes, or NAME.pt2 for "
             "torch.export.load.", required=(*CONVERSION, "convert_model")),
        Flag("training_state", str, None, ("convert_weights",),
             "Write the whole training state of --input, a checkpoint of train.py, so that PaddlePaddle can continue "
             "it. --output is a folder of variables (fluid), or PREFIX for PREFIX.pdparams, .pdopt and .pdstates "
             "(PaddleClas).", choices=("fluid", "PaddleClas")),
        Flag("names_from", str, None, ("convert_weights",),
             "--training_state of a run that started in train.py: a state that PaddlePaddle saved for the same "
             "network, which supplies the names that only its program knows."),
        Flag("names", str, None, ("convert_weights",),
             "--output=NAME.pdparams: naming scheme of the tensors, fluid (1.x) or PaddleClas (2 and later). If "
             "omitted: PaddleClas, unless only fluid has this variant of the network.",
             choices=("fluid", "PaddleClas")),
    ),
}
# fmt: on


def flags_of(script: str) -> dict[str, list[Flag]]:
    """The flags that `script` takes, by group, in the order of declaration."""
    by_group = {group: [flag for flag in flags if script in flag.scripts] for group, flags in GROUPS.items()}
    return {group: flags for group, flags in by_group.items() if flags}
