"""The cases of `make_paddle_cases` for PaddlePaddle 2 and 3: what each is given, and the operators it is made of."""

import numpy as np
import paddle as P
import paddle.nn.functional as F

IMAGE = {"x": ((2, 4, 6, 6), "float32")}
ROWS = {"x": ((2, 5, 6), "float32")}
MATRIX = {"x": ((2, 6), "float32")}
TWO = {"x": ((2, 4, 6, 6), "float32"), "y": ((2, 4, 6, 6), "float32")}
TWO_ROWS = {"x": ((2, 5, 6), "float32"), "y": ((2, 5, 6), "float32")}
WHOLE = {"x": ((2, 5, 6), "int64"), "y": ((2, 5, 6), "int64")}
FLAGS = {"x": ((2, 5, 6), "bool"), "y": ((2, 5, 6), "bool")}
ONE_WHOLE = {"x": WHOLE["x"]}
ONE_FLAG = {"x": FLAGS["x"]}

CASES = {}


def weight(*shape, seed=0):
    """A constant of the program."""
    values = np.random.RandomState(seed).uniform(-0.5, 0.5, shape).astype("float32")
    return P.assign(values)


def parameter(*shape, seed=0, low=-0.5, high=0.5):
    """A weight in the file of parameters."""
    values = np.random.RandomState(seed).uniform(low, high, shape).astype("float32")
    return P.create_parameter(list(shape), "float32", default_initializer=P.nn.initializer.Assign(values))


def case(name, kinds, build):
    CASES[name] = (kinds, build)


# Element by element: PaddlePaddle's function, and where it is defined.
for name in [
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "digamma",
    "erf",
    "erfinv",
    "exp",
    "expm1",
    "floor",
    "isfinite",
    "isinf",
    "isnan",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "reciprocal",
    "round",
    "rsqrt",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
    "stanh",
    "logit",
]:
    case(name, MATRIX, lambda x, name=name: getattr(P, name)(
        x / 4 if name in ("acos", "asin", "atanh", "erfinv") else P.abs(x) + 1.5 if name in (
            "acosh", "digamma", "lgamma", "log", "log10", "log1p", "log2", "rsqrt", "sqrt") else
        P.abs(x) / 4 + 0.1 if name == "logit" else x))  # fmt: skip
for name in [
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "swish",
    "mish",
    "softplus",
    "softsign",
    "tanhshrink",
    "softshrink",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "gelu",
    "log_sigmoid",
    "thresholded_relu",
    "softmax",
    "log_softmax",
    "rrelu",
]:
    case(
        f"F.{name}",
        ROWS,
        lambda x, name=name: getattr(F, name)(x, training=False) if name == "rrelu" else getattr(F, name)(x),
    )
case("gelu_tanh", ROWS, lambda x: F.gelu(x, approximate=True))
case("elu_2", ROWS, lambda x: F.elu(x, 2.0))
case("celu_2", ROWS, lambda x: F.celu(x, 2.0))
case("leaky_relu_0.3", ROWS, lambda x: F.leaky_relu(x, 0.3))
case("softplus_2", ROWS, lambda x: F.softplus(x * 20, 2.0, 10.0))
case("hardtanh_3", ROWS, lambda x: F.hardtanh(x, -0.5, 1.5))
case("hardsigmoid_0.3", ROWS, lambda x: F.hardsigmoid(x, 0.3, 0.4))
case("thresholded_relu_0.5", ROWS, lambda x: F.thresholded_relu(x, 0.5))
case("softmax_axis", IMAGE, lambda x: F.softmax(x, 1))
case("log_softmax_axis", IMAGE, lambda x: F.log_softmax(x, 1))
case("prelu_channel", IMAGE, lambda x: F.prelu(x, parameter(4)))
case("prelu_all", IMAGE, lambda x: F.prelu(x, parameter(1)))
case("maxout", IMAGE, lambda x: F.maxout(x, 2))
case("glu", MATRIX, lambda x: F.glu(x))
case("dropout_down", ROWS, lambda x: F.dropout(x, 0.3, training=False, mode="downscale_in_infer"))
case("dropout_up", ROWS, lambda x: F.dropout(x, 0.3, training=False))
case("dropout2d", IMAGE, lambda x: F.dropout2d(x, 0.3, training=False))
case("clip", ROWS, lambda x: P.clip(x, -0.5, 0.7))
case("clip_min", ROWS, lambda x: P.clip(x, min=-0.5))
case("scale", ROWS, lambda x: P.scale(x, 2.0, 0.5))
case("scale_before", ROWS, lambda x: P.scale(x, 2.0, 0.5, bias_after_scale=False))
case("scale_int", WHOLE, lambda x, y: P.scale(x, 2.0, 3.0) + y)
case("pow_3", ROWS, lambda x: P.pow(x, 3.0))
case("pow_0.5", ROWS, lambda x: P.pow(P.abs(x), 0.5))
case("pow_tensor", TWO_ROWS, lambda x, y: P.pow(P.abs(x), y))

# Pairs
for name in ["add", "subtract", "multiply", "divide", "maximum", "minimum", "fmax", "fmin", "atan2", "heaviside"]:
    case(name, TWO_ROWS, lambda x, y, name=name: getattr(P, name)(x, y))
for name in ["equal", "not_equal", "less_than", "less_equal", "greater_than", "greater_equal"]:
    case(name, TWO_ROWS, lambda x, y, name=name: getattr(P, name)(P.round(x), P.round(y)))
for name in ["logical_and", "logical_or", "logical_xor"]:
    case(name, FLAGS, lambda x, y, name=name: getattr(P, name)(x, y))
for name in ["bitwise_and", "bitwise_or", "bitwise_xor", "add", "multiply", "maximum"]:
    case(f"{name}_int", WHOLE, lambda x, y, name=name: getattr(P, name)(x, y))
case("logical_not", ONE_FLAG, lambda x: P.logical_not(x))
case("bitwise_not", ONE_WHOLE, lambda x: P.bitwise_not(x))
case("broadcast_add", {"x": ((2, 4, 6, 6), "float32"), "y": ((2, 1, 6), "float32")}, lambda x, y: x + P.unsqueeze(y, 1))
case("floor_divide_int", ONE_WHOLE, lambda x: (x * 7 - 9) // P.full([1], 4, "int64"))
case("remainder_int", ONE_WHOLE, lambda x: (x * 7 - 9) % P.full([1], 4, "int64"))
case("remainder", TWO_ROWS, lambda x, y: P.remainder(x, P.abs(y) + 0.5))
case("floor_divide", TWO_ROWS, lambda x, y: P.floor_divide(x, P.abs(y) + 0.5))
case("where", TWO_ROWS, lambda x, y: P.where(x > y, x, y * 2))
case("lerp", TWO_ROWS, lambda x, y: P.lerp(x, y, P.full([1], 0.3)))
case("add_n", TWO_ROWS, lambda x, y: P.add_n([x, y, x]))
case("cast", ROWS, lambda x: P.cast(P.cast(x * 3, "int32"), "float32"))
case("cast_bool", ROWS, lambda x: P.cast(P.cast(P.round(x), "bool"), "float32"))
case("assign", ROWS, lambda x: P.assign(x) + 1)
case("masked_fill", TWO_ROWS, lambda x, y: P.where(y > 0, P.full_like(x, -100.0), x))
case("logaddexp", TWO_ROWS, lambda x, y: P.logaddexp(x, y))

# Matrices
case("matmul", TWO, lambda x, y: P.matmul(x, y, transpose_y=True))
case("matmul_x", TWO, lambda x, y: P.matmul(x, y, transpose_x=True))
case("matmul_weight", ROWS, lambda x: P.matmul(x, parameter(6, 3)))
case("matmul_vector", ROWS, lambda x: P.matmul(x, parameter(6)))
case("linear", ROWS, lambda x: F.linear(x, parameter(6, 3), parameter(3, seed=1)))
case(
    "linear_bn",
    MATRIX,
    lambda x: F.batch_norm(
        F.linear(x, parameter(6, 4), parameter(4, seed=1)),
        parameter(4),
        parameter(4, low=0.5),
        parameter(4, low=0.5),
        parameter(4),
    ),
)
case(
    "conv_scaled",
    IMAGE,
    lambda x: F.conv2d(x, parameter(8, 4, 3, 3), parameter(8)) * parameter(1, 8, 1, 1) + parameter(8, 1, 1, seed=1),
)
case(
    "conv_twice",
    IMAGE,
    lambda x: F.relu(F.conv2d(x, parameter(4, 4, 3, 3), padding=1)) + F.conv2d(x, parameter(4, 4, 3, 3), padding=1),
)
case("hard_swish_spelled", IMAGE, lambda x: x * F.relu6(x + 3) / 6)
case("swish_spelled", IMAGE, lambda x: x * F.sigmoid(x))
case(
    "broadcast_tensors",
    {"x": ((2, 1, 6), "float32"), "y": ((2, 5, 1), "float32")},
    lambda x, y: P.broadcast_tensors([x, y]),
)
case("linear_scaled", ROWS, lambda x: F.linear(x, parameter(6, 3), parameter(3, seed=1)) * parameter(3, seed=2))
case("bmm", TWO_ROWS, lambda x, y: P.bmm(x, P.transpose(y, [0, 2, 1])))
case("mv", MATRIX, lambda x: P.mv(x, parameter(6)))
case("dot", MATRIX, lambda x: P.dot(x, x + 1))
case("addmm", MATRIX, lambda x: P.addmm(parameter(1, 3), x, parameter(6, 3, seed=1), beta=0.5, alpha=2.0))
case("kron", MATRIX, lambda x: P.kron(x, parameter(2, 3)))
case("einsum", TWO_ROWS, lambda x, y: P.einsum("bij,bkj->bik", x, y))
case("cross", {"x": ((2, 3, 4), "float32"), "y": ((2, 3, 4), "float32")}, lambda x, y: P.cross(x, y, axis=1))
case(
    "bilinear",
    {"x": ((2, 3), "float32"), "y": ((2, 4), "float32")},
    lambda x, y: F.bilinear(x, y, parameter(5, 3, 4), parameter(1, 5)),
)
case("dist", TWO_ROWS, lambda x, y: P.dist(x, y, 3))
case("cosine_similarity", TWO_ROWS, lambda x, y: F.cosine_similarity(x, y, axis=2))
case("attention", TWO, lambda x, y: P.matmul(F.softmax(P.matmul(x, y, transpose_y=True) * 0.3 + weight(4, 6, 6)), y))
case("normalize", ROWS, lambda x: F.normalize(x, axis=2))

# Convolutions
W = parameter
case("conv", IMAGE, lambda x: F.conv2d(x, W(8, 4, 3, 3), W(8), stride=2, padding=1))
case("conv_same", IMAGE, lambda x: F.conv2d(x, W(8, 4, 3, 3), stride=2, padding="SAME"))
case("conv_same_dilated", IMAGE, lambda x: F.conv2d(x, W(8, 4, 3, 3), padding="SAME", dilation=2))
case("conv_valid", IMAGE, lambda x: F.conv2d(x, W(8, 4, 3, 2), padding="VALID"))
case("conv_four", IMAGE, lambda x: F.conv2d(x, W(8, 4, 3, 3), padding=[0, 1, 2, 0], stride=2))
case("conv_groups", IMAGE, lambda x: F.conv2d(x, W(8, 2, 3, 3), groups=2, padding=2, dilation=2))
case("conv_depthwise", IMAGE, lambda x: F.conv2d(x, W(4, 1, 3, 3), groups=4, padding=1))
case("conv_depthwise_double", IMAGE, lambda x: F.conv2d(x, W(8, 1, 3, 3), groups=4, padding=1))
case("conv_nhwc", IMAGE, lambda x: F.conv2d(x, W(8, 6, 3, 3), padding=1, data_format="NHWC"))
case("conv_bn", IMAGE, lambda x: F.batch_norm(F.conv2d(x, W(8, 4, 3, 3)), W(8), W(8, low=0.5), W(8, low=0.5), W(8)))
case("conv1d", ROWS, lambda x: F.conv1d(x, W(4, 5, 3), padding=1))
case("conv3d", {"x": ((2, 3, 4, 5, 5), "float32")}, lambda x: F.conv3d(x, W(4, 3, 2, 3, 3), padding=1))
case("deconv", IMAGE, lambda x: F.conv2d_transpose(x, W(4, 3, 3, 3), W(3), stride=2, padding=1))
case("deconv_output", IMAGE, lambda x: F.conv2d_transpose(x, W(4, 3, 3, 3), stride=2, padding=1, output_padding=1))
case("deconv_size", IMAGE, lambda x: F.conv2d_transpose(x, W(4, 3, 3, 3), stride=2, padding=1, output_size=[12, 11]))
case("deconv_four", IMAGE, lambda x: F.conv2d_transpose(x, W(4, 3, 3, 3), stride=2, padding=[0, 1, 1, 0]))
case("deconv_groups", IMAGE, lambda x: F.conv2d_transpose(x, W(4, 3, 3, 3), groups=2, dilation=2))
case("deconv_depthwise", IMAGE, lambda x: F.conv2d_transpose(x, W(4, 1, 3, 3), groups=4, stride=2))
case("deconv_same", IMAGE, lambda x: F.conv2d_transpose(x, W(4, 3, 3, 3), stride=2, padding="SAME"))
case("unfold", IMAGE, lambda x: F.unfold(x, [3, 2], 2, 1))
case("unfold_four", IMAGE, lambda x: F.unfold(x, 3, 1, [0, 1, 2, 1], 2))
case("fold", {"x": ((2, 12, 25), "float32")}, lambda x: F.fold(x, [6, 6], 2))

# Pooling
case("max_pool", IMAGE, lambda x: F.max_pool2d(x, 3, 2, 1))
case("max_pool_ceil", IMAGE, lambda x: F.max_pool2d(x, 2, 3, 0, ceil_mode=True))
case("max_pool_ceil_padded", {"x": ((2, 3, 7, 7), "float32")}, lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True))
case("max_pool_four", IMAGE, lambda x: F.max_pool2d(x, 3, 2, [0, 1, 1, 0]))
case("max_pool_same", IMAGE, lambda x: F.max_pool2d(x, 3, 2, "SAME"))
case("max_pool_nhwc", IMAGE, lambda x: F.max_pool2d(x, 2, 2, data_format="NHWC"))
case("max_pool_index", IMAGE, lambda x: F.max_pool2d(x, 2, 2, return_mask=True)[0])
case("avg_pool", IMAGE, lambda x: F.avg_pool2d(x, 3, 2, 1))
case("avg_pool_inclusive", IMAGE, lambda x: F.avg_pool2d(x, 3, 2, 1, exclusive=False))
case("avg_pool_ceil", {"x": ((2, 3, 7, 7), "float32")}, lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True))
case("avg_pool_ceil_padded", {"x": ((2, 3, 6, 6), "float32")}, lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True))
case("avg_pool_four", IMAGE, lambda x: F.avg_pool2d(x, 3, 2, [0, 1, 1, 0]))
case("avg_pool_same", IMAGE, lambda x: F.avg_pool2d(x, 3, 2, "SAME"))
case("adaptive_avg", {"x": ((2, 3, 7, 5), "float32")}, lambda x: F.adaptive_avg_pool2d(x, [3, 2]))
case("adaptive_avg_1", IMAGE, lambda x: F.adaptive_avg_pool2d(x, 1))
case("adaptive_max", {"x": ((2, 3, 7, 5), "float32")}, lambda x: F.adaptive_max_pool2d(x, [3, 2]))
case("adaptive_max_even", IMAGE, lambda x: F.adaptive_max_pool2d(x, 3))
case("max_pool_3d", {"x": ((2, 3, 4, 5, 5), "float32")}, lambda x: F.max_pool3d(x, 2, 2, 1))
case("avg_pool_3d", {"x": ((2, 3, 4, 5, 5), "float32")}, lambda x: F.avg_pool3d(x, 2, 2, 1))
case("max_pool_1d", ROWS, lambda x: F.max_pool1d(x, 2, 2))
case("adaptive_avg_1d", ROWS, lambda x: F.adaptive_avg_pool1d(x, 3))
case("lp_pool", IMAGE, lambda x: F.lp_pool2d(P.abs(x), 2.0, 2, 2))

# Normalization
case("batch_norm", IMAGE, lambda x: F.batch_norm(x, W(4), W(4, low=0.5), W(4, low=0.5), W(4), epsilon=1e-3))
case("batch_norm_rows", MATRIX, lambda x: F.batch_norm(x, W(6), W(6, low=0.5), W(6, low=0.5), W(6)))
case("batch_norm_nhwc", IMAGE, lambda x: F.batch_norm(x, W(6), W(6, low=0.5), W(6, low=0.5), W(6), data_format="NHWC"))
case("layer_norm", ROWS, lambda x: F.layer_norm(x, 6, W(6), W(6, seed=1)))
case("layer_norm_two", ROWS, lambda x: F.layer_norm(x, [5, 6], W(30), W(30, seed=1), 1e-3))
case("layer_norm_plain", ROWS, lambda x: F.layer_norm(x, 6))
case("group_norm", IMAGE, lambda x: F.group_norm(x, 2, 1e-4, W(4), W(4, seed=1)))
case("group_norm_plain", IMAGE, lambda x: F.group_norm(x, 2))
case("instance_norm", IMAGE, lambda x: F.instance_norm(x, weight=W(4), bias=W(4, seed=1)))
case("local_response_norm", IMAGE, lambda x: F.local_response_norm(x, 3))


# Resizing
def resize(**options):
    return lambda x: F.interpolate(x, **options)


for mode in ("nearest", "bilinear", "bicubic"):
    case(f"{mode}_size", IMAGE, resize(size=[9, 4], mode=mode))
    case(f"{mode}_scale", IMAGE, resize(scale_factor=[2, 2], mode=mode))
    case(f"{mode}_odd_scale", IMAGE, resize(scale_factor=[1.7, 0.6], mode=mode))
for mode in ("bilinear", "bicubic"):
    case(f"{mode}_corners", IMAGE, resize(size=[9, 4], mode=mode, align_corners=True))
case("bilinear_mode_1", IMAGE, resize(size=[9, 4], mode="bilinear", align_mode=1))
case("bilinear_mode_1_scale", IMAGE, resize(scale_factor=2, mode="bilinear", align_mode=1))
case("bilinear_nhwc", IMAGE, resize(size=[8, 8], mode="bilinear", data_format="NHWC"))
case("linear_size", ROWS, resize(size=[9], mode="linear", data_format="NCW"))
case("bilinear_like", IMAGE, lambda x: F.interpolate(F.max_pool2d(x, 2, 2), size=P.shape(x)[2:], mode="bilinear"))
case(
    "grid_sample",
    {"x": ((2, 3, 5, 5), "float32"), "y": ((2, 4, 4, 2), "float32")},
    lambda x, y: F.grid_sample(x, y / 2),
)
case(
    "grid_sample_border",
    {"x": ((2, 3, 5, 5), "float32"), "y": ((2, 4, 4, 2), "float32")},
    lambda x, y: F.grid_sample(x, y, mode="nearest", padding_mode="border", align_corners=False),
)
case("affine_grid", {"x": ((2, 2, 3), "float32")}, lambda x: F.affine_grid(x, [2, 3, 4, 5]))
case(
    "affine_grid_corners", {"x": ((2, 2, 3), "float32")}, lambda x: F.affine_grid(x, [2, 3, 4, 5], align_corners=False)
)
case("pixel_shuffle", IMAGE, lambda x: F.pixel_shuffle(x, 2))
case("pixel_unshuffle", IMAGE, lambda x: F.pixel_unshuffle(x, 2))
case("channel_shuffle", IMAGE, lambda x: F.channel_shuffle(x, 2))

# Shapes
case("reshape", IMAGE, lambda x: P.reshape(x, [0, 2, -1]))
case("reshape_batch", IMAGE, lambda x: P.reshape(x, [P.shape(x)[0] * 4, 36]))
case("reshape_back", IMAGE, lambda x: P.reshape(P.reshape(x, [-1, 3, 3]), [P.shape(x)[0], -1]))
case("transpose", IMAGE, lambda x: P.transpose(x, [0, 2, 3, 1]))
case("flatten", IMAGE, lambda x: P.flatten(x, 1, 2))
case("squeeze", {"x": ((2, 1, 5, 1), "float32")}, lambda x: [P.squeeze(x, [1]), P.squeeze(x, [-1, 2])])
case("unsqueeze", ROWS, lambda x: P.unsqueeze(x, [1, -1]))
case("concat", TWO, lambda x, y: P.concat([x, y, x], 1))
case("stack", TWO_ROWS, lambda x, y: P.stack([x, y], -1))
case("unstack", ROWS, lambda x: P.unstack(x, 1)[::2])
case("unbind", ROWS, lambda x: P.unbind(x, 2)[:3])
case("split", IMAGE, lambda x: P.split(x, 2, 1))
case("split_sections", IMAGE, lambda x: P.split(x, [1, -1, 2], 2))
case("chunk", IMAGE, lambda x: P.chunk(x, 3, -1))
case("slice", IMAGE, lambda x: x[:, 1:3, ::2, -4:-1])
case("slice_one", IMAGE, lambda x: x[:, 1, :, -1])
case("slice_backwards", ROWS, lambda x: x[:, ::-2])
case("slice_ellipsis", IMAGE, lambda x: x[..., 2])
case("strided_slice", IMAGE, lambda x: P.strided_slice(x, [2, 3], [1, 5], [6, 0], [2, -2]))
case("expand", {"x": ((2, 1, 6), "float32")}, lambda x: P.expand(x, [3, -1, 5, 6]))
case("expand_as", {"x": ((2, 1, 6), "float32"), "y": ((2, 5, 6), "float32")}, lambda x, y: P.expand_as(x, y))
case("broadcast_to", {"x": ((2, 1, 6), "float32")}, lambda x: P.broadcast_to(x, [-1, 4, 6]))
case("tile", ROWS, lambda x: P.tile(x, [1, 2, 3]))
case("tile_more", MATRIX, lambda x: P.tile(x, [2, 1, 2]))
case("class_token", ROWS, lambda x: P.concat([P.expand(parameter(1, 1, 6), [P.shape(x)[0], -1, -1]), x], 1))
case("flip", IMAGE, lambda x: P.flip(x, [1, -1]))
case("roll", IMAGE, lambda x: P.roll(x, [1, -2], [2, 3]))
case("roll_all", ROWS, lambda x: P.roll(x, 3))
case("rot90", IMAGE, lambda x: P.rot90(x, 1, [2, 3]))
case("pad_zeros", IMAGE, lambda x: F.pad(x, [1, 2, 0, 1]))
case("pad_value", IMAGE, lambda x: F.pad(x, [1, 2, 0, 1], value=0.5))
case("pad_all", ROWS, lambda x: F.pad(x, [0, 0, 1, 2, 3, 0]))
for mode in ("reflect", "replicate", "circular"):
    case(f"pad_{mode}", IMAGE, lambda x, mode=mode: F.pad(x, [1, 2, 0, 1], mode=mode))
case("pad_nhwc", IMAGE, lambda x: F.pad(x, [1, 2, 0, 1], data_format="NHWC"))
case("crop", IMAGE, lambda x: P.crop(x, [-1, 2, 3, -1], [0, 1, 2, 1]))
case("shape", IMAGE, lambda x: P.shape(x))
case("rank", IMAGE, lambda x: x * P.cast(P.rank(x), "float32"))
case("numel", IMAGE, lambda x: P.numel(x))
case("meshgrid", ROWS, lambda x: [value + P.mean(x) for value in P.meshgrid(weight(2), weight(3))])
case("repeat_interleave", ROWS, lambda x: P.repeat_interleave(x, 2, 1))
case("moveaxis", IMAGE, lambda x: P.moveaxis(x, 1, 3))
case("diagonal", ROWS, lambda x: P.diagonal(x, 1, 1, 2))
case("tril", ROWS, lambda x: P.tril(x, 1))
case("triu", ROWS, lambda x: P.triu(x, -1))
case("diag", MATRIX, lambda x: P.matmul(x, P.diag(parameter(6))))

# Elements
INDEX = {"x": ((2, 5, 6), "float32"), "y": ((2, 3), "int64")}
case("gather", ROWS, lambda x: P.gather(x, P.assign(np.array([4, 0, 0])), 1))
case("gather_axis", INDEX, lambda x, y: P.gather(x, y[0], 2))
case("gather_nd", ROWS, lambda x: P.gather_nd(P.transpose(x, [1, 2, 0]), P.assign(np.array([[0, 1], [1, 4]]))))
case("index_select", ROWS, lambda x: P.index_select(x, P.assign(np.array([3, 3, 1])), 1))
case("index_sample", {"x": ((2, 6), "float32"), "y": ((2, 3), "int64")}, lambda x, y: P.index_sample(x, y))
case("take_along_axis", {"x": ((2, 6), "float32"), "y": ((2, 3), "int64")}, lambda x, y: P.take_along_axis(x, y, 1))
case(
    "put_along_axis",
    {"x": ((2, 6), "float32"), "y": ((2, 1), "int64")},
    lambda x, y: P.put_along_axis(x, y, P.full_like(P.cast(y, "float32"), 9.0), 1),
)
case("embedding", {"x": ((2, 5), "int64")}, lambda x: F.embedding(x, parameter(7, 3)))
case("embedding_padding", {"x": ((2, 5), "int64")}, lambda x: F.embedding(x, parameter(7, 3), padding_idx=2))
case("one_hot", {"x": ((2, 5), "int64")}, lambda x: F.one_hot(x, 6))
case(
    "scatter",
    ROWS,
    lambda x: P.scatter(P.transpose(x, [1, 0, 2]), P.assign(np.array([3, 1])), P.transpose(x, [1, 0, 2])[:2] * 2),
)
case(
    "scatter_add",
    ROWS,
    lambda x: P.scatter(
        P.transpose(x, [1, 0, 2]), P.assign(np.array([3, 3])), P.transpose(x, [1, 0, 2])[:2] * 2, overwrite=False
    ),
)
case(
    "scatter_nd_add",
    ROWS,
    lambda x: P.scatter_nd_add(
        P.transpose(x, [1, 0, 2]), P.assign(np.array([[3], [3]])), P.transpose(x, [1, 0, 2])[:2]
    ),
)


def put(x, *key, value):
    x = x + 0
    x = P.static.setitem(x, key, value) if hasattr(P.static, "setitem") else _set(x, key, value)
    return x


def _set(x, key, value):
    x[key] = value
    return x


case("set_value", IMAGE, lambda x: put(x, slice(None), slice(1, 3), value=2.5))
case("set_value_tensor", IMAGE, lambda x: put(x, slice(None), slice(1, 3), 2, value=x[:, :2, 0] * 3))
case(
    "set_value_mask", ROWS, lambda x: x + put(P.zeros([1, 5, 6]), slice(None), slice(-3, -1), slice(None, 2), value=7.0)
)

# Reductions and order
for name in ["mean", "sum", "max", "min", "prod", "amax", "amin", "logsumexp"]:
    case(f"{name}_axis", ROWS, lambda x, name=name: getattr(P, name)(x, [1] if name != "prod" else 1, keepdim=True))
    case(f"{name}_two", IMAGE, lambda x, name=name: getattr(P, name)(x, [2, -1]))
case("mean_all", ROWS, lambda x: P.mean(x))
case("max_all", ROWS, lambda x: P.max(x))
case("sum_int", ONE_WHOLE, lambda x: P.sum(x, 1))
case("sum_bool", ONE_FLAG, lambda x: P.sum(x, 1))
case("all", ONE_FLAG, lambda x: P.all(x, 1))
case("any", ONE_FLAG, lambda x: P.any(x, 2, keepdim=True))
case("norm_2", ROWS, lambda x: P.norm(x, 2, 1))
case("norm_1", ROWS, lambda x: P.norm(x, 1, 2, keepdim=True))
case("norm_inf", ROWS, lambda x: P.norm(x, float("inf"), 2))
case("norm_fro", ROWS, lambda x: P.norm(x, "fro", [1, 2]))
case("var", ROWS, lambda x: P.var(x, 1))
case("std", ROWS, lambda x: P.std(x, 2, unbiased=False))
case("argmax", ROWS, lambda x: P.argmax(x, 1))
case("argmax_keep", ROWS, lambda x: P.argmax(x, -1, keepdim=True, dtype="int32"))
case("argmin", ROWS, lambda x: P.argmin(x, 1))
case("topk", ROWS, lambda x: P.topk(x, 3))
case("topk_smallest", ROWS, lambda x: P.topk(x, 2, axis=1, largest=False))
case("sort", ROWS, lambda x: P.sort(x, 1, descending=True))
case("argsort", ROWS, lambda x: P.argsort(x, 2))
case("kthvalue", ROWS, lambda x: P.kthvalue(x, 2, 1))
case("cumsum", ROWS, lambda x: P.cumsum(x, 1))
case("cumsum_all", ROWS, lambda x: P.cumsum(x))
case("cumprod", ROWS, lambda x: P.cumprod(x, 1))
case("logcumsumexp", ROWS, lambda x: P.logcumsumexp(x, 1))

# Numbers
case("full", ROWS, lambda x: x + P.full([5, 6], 2.5))
case("full_like", ROWS, lambda x: P.full_like(x, 1.5) * x)
case("zeros_like", ROWS, lambda x: P.zeros_like(x) + 1)
case("ones_like", ROWS, lambda x: P.ones_like(x) + x)
case("zeros_batch", ROWS, lambda x: P.concat([P.zeros([P.shape(x)[0], 2, 6]), x], 1))
case("arange", ROWS, lambda x: x + P.cast(P.arange(1, 13, 2), "float32"))
case("linspace", ROWS, lambda x: x + P.linspace(0, 1, 6))
case("eye", ROWS, lambda x: P.matmul(x, P.eye(6, 4)))
case("batch_number", ROWS, lambda x: x * P.cast(P.shape(x)[0], "float32"))
case("scalar_tensor", ROWS, lambda x: x * P.to_tensor(3.0) if hasattr(P, "to_tensor") else x)
