"""The cases of `make_paddle_cases` for fluid 1.8: operators that later versions write otherwise."""

import numpy as np
from paddle import fluid

L = fluid.layers

IMAGE = {"x": ((2, 4, 6, 6), "float32")}
ROWS = {"x": ((2, 5, 6), "float32")}
MATRIX = {"x": ((2, 6), "float32")}
TWO = {"x": ((2, 4, 6, 6), "float32"), "y": ((2, 4, 6, 6), "float32")}

CASES = {}


def case(name, kinds, build):
    CASES[name] = (kinds, build)


def weight(*shape):
    """A constant of the program."""
    return L.assign(np.random.RandomState(len(shape)).uniform(-0.5, 0.5, shape).astype("float32"))


def parameter(*shape):
    """A weight in the file of parameters."""
    values = np.random.RandomState(len(shape)).uniform(0.2, 0.8, shape).astype("float32")
    return L.create_parameter(
        list(shape), "float32", default_initializer=fluid.initializer.NumpyArrayInitializer(values)
    )


for name in [
    "abs",
    "acos",
    "asin",
    "atan",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "exp",
    "floor",
    "log",
    "log1p",
    "reciprocal",
    "relu6",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "softplus",
    "softsign",
    "sqrt",
    "square",
    "tanh",
    "tanh_shrink",
    "logsigmoid",
    "softshrink",
    "hard_shrink",
    "thresholded_relu",
    "elu",
    "selu",
    "gelu",
    "swish",
    "mish",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "brelu",
    "stanh",
    "soft_relu",
    "relu",
    "softmax",
]:
    if hasattr(L, name):
        case(name, MATRIX, lambda x, name=name: getattr(L, name)(
            x / 4 if name in ("acos", "asin") else
            L.abs(x) + 0.5 if name in ("log", "log1p", "rsqrt", "sqrt") else x))  # fmt: skip
case("swish_beta", ROWS, lambda x: L.swish(x, beta=1.5))
case("softmax_axis", IMAGE, lambda x: L.softmax(x, axis=1))
case("maxout", IMAGE, lambda x: L.maxout(x, 2))
for mode in ("all", "channel", "element"):
    case("prelu_" + mode, IMAGE, lambda x, mode=mode: L.prelu(x, mode))
case("clip", ROWS, lambda x: L.clip(x, -0.5, 0.7))
case("pow", ROWS, lambda x: L.pow(L.abs(x), 1.5))
case("scale", ROWS, lambda x: L.scale(x, 2.0, 0.5, bias_after_scale=False))
case("dropout", ROWS, lambda x: L.dropout(x, 0.3))
case("dropout_up", ROWS, lambda x: L.dropout(x, 0.3, dropout_implementation="upscale_in_train"))

for name in ["add", "sub", "mul", "div", "max", "min", "pow"]:
    function = getattr(L, "elementwise_" + name)
    case("elementwise_" + name, TWO, lambda x, y, f=function: f(L.abs(x), L.abs(y) + 0.5))
    case("elementwise_" + name + "_axis", IMAGE, lambda x, f=function: f(L.abs(x), parameter(4, 6), axis=1))
case(
    "add_gate", {"x": ((2, 4, 6, 6), "float32"), "y": ((2, 4), "float32")}, lambda x, y: L.elementwise_mul(x, y, axis=0)
)
case("add_trailing_ones", IMAGE, lambda x: L.elementwise_add(x, parameter(4, 1), axis=1))
case("elementwise_mod", {"x": ((2, 6), "int64")}, lambda x: L.elementwise_mod(x, L.fill_constant([6], "int64", 3)))
case(
    "elementwise_floordiv",
    {"x": ((2, 6), "int64")},
    lambda x: L.elementwise_floordiv(x, L.fill_constant([6], "int64", 3)),
)
for name in ["equal", "not_equal", "less_than", "less_equal", "greater_than", "greater_equal"]:
    case(name, TWO, lambda x, y, name=name: L.cast(getattr(L, name)(L.round(x), L.round(y)), "float32"))
case(
    "logical",
    TWO,
    lambda x, y: L.cast(L.logical_and(L.logical_not(x > 0), L.logical_or(y > 0, L.logical_xor(x > 1, y > 1))), "int32"),
)
case("sum", TWO, lambda x, y: L.sums([x, y, x]))

case("fc", IMAGE, lambda x: L.fc(x, 5, act="relu"))
case("fc_rows", ROWS, lambda x: L.fc(x, 5, num_flatten_dims=2))
case("mul", {"x": ((2, 3, 4), "float32")}, lambda x: L.mul(x, parameter(2, 6, 5), 1, 2))
case("matmul", TWO, lambda x, y: L.matmul(x, y, transpose_y=True, alpha=0.5))
case("matmul_rows", ROWS, lambda x: L.matmul(x, parameter(6, 3)))
case("matmul_vector", MATRIX, lambda x: L.matmul(L.reduce_mean(x, 0), parameter(6)))
case(
    "bilinear_tensor_product",
    {"x": ((2, 3), "float32"), "y": ((2, 4), "float32")},
    lambda x, y: L.bilinear_tensor_product(x, y, 5),
)
case("cos_sim", MATRIX, lambda x: L.cos_sim(x, x * x))
case("l2_normalize", IMAGE, lambda x: L.l2_normalize(x, 1))

case("conv", IMAGE, lambda x: L.conv2d(x, 8, 3, 2, 1, act="relu"))
case("conv_same", IMAGE, lambda x: L.conv2d(x, 8, 3, 2, "SAME"))
case("conv_four", IMAGE, lambda x: L.conv2d(x, 8, 3, 2, [0, 1, 2, 0], groups=2, bias_attr=False))
case("conv_bn", IMAGE, lambda x: L.batch_norm(L.conv2d(x, 8, 3), act="relu", is_test=True))
case("conv_nhwc", IMAGE, lambda x: L.conv2d(x, 8, 3, data_format="NHWC"))
case("deconv", IMAGE, lambda x: L.conv2d_transpose(x, 3, filter_size=3, stride=2, padding=1))
case("deconv_size", IMAGE, lambda x: L.conv2d_transpose(x, 3, output_size=[12, 12], filter_size=3, stride=2, padding=1))
case("deconv_depthwise", IMAGE, lambda x: L.conv2d_transpose(x, 4, filter_size=4, stride=2, padding=1, groups=4))

case("pool_max", IMAGE, lambda x: L.pool2d(x, 3, "max", 2, 1))
case("pool_avg", IMAGE, lambda x: L.pool2d(x, 3, "avg", 2, 1))
case("pool_avg_inclusive", IMAGE, lambda x: L.pool2d(x, 3, "avg", 2, 1, exclusive=False))
case(
    "pool_avg_inclusive_ceil",
    {"x": ((2, 3, 7, 8), "float32")},
    lambda x: L.pool2d(x, 3, "avg", 2, 1, ceil_mode=True, exclusive=False),
)
case("pool_avg_ceil", {"x": ((2, 3, 7, 8), "float32")}, lambda x: L.pool2d(x, 2, "avg", 2, ceil_mode=True))
case("pool_max_ceil", {"x": ((2, 3, 7, 8), "float32")}, lambda x: L.pool2d(x, 3, "max", 2, 1, ceil_mode=True))
case("pool_max_same", IMAGE, lambda x: L.pool2d(x, 3, "max", 2, "SAME"))
case("pool_global", IMAGE, lambda x: L.pool2d(x, -1, "avg", global_pooling=True))
case("pool_global_max", IMAGE, lambda x: L.pool2d(x, 7, "max", global_pooling=True))
case("adaptive_avg", {"x": ((2, 3, 7, 5), "float32")}, lambda x: L.adaptive_pool2d(x, [3, 2], "avg"))
case("adaptive_max", {"x": ((2, 3, 7, 5), "float32")}, lambda x: L.adaptive_pool2d(x, [3, 2], "max"))

case("layer_norm", ROWS, lambda x: L.layer_norm(x, begin_norm_axis=2))
case("layer_norm_two", ROWS, lambda x: L.layer_norm(x, begin_norm_axis=1))
case("group_norm", IMAGE, lambda x: L.group_norm(x, 2))
case("instance_norm", IMAGE, lambda x: L.instance_norm(x))
case("lrn", IMAGE, lambda x: L.lrn(x, 3, 1.5, 0.1, 0.6))
case("data_norm", MATRIX, lambda x: L.data_norm(x))
case("affine_channel", IMAGE, lambda x: L.affine_channel(x, parameter(4), parameter(4)))
case("spectral_norm", IMAGE, lambda x: L.elementwise_mul(x, L.spectral_norm(parameter(6, 6), 0, 2)))

for corners in (True, False):
    tag = "_corners" if corners else ""
    case("resize_nearest" + tag, IMAGE, lambda x, c=corners: L.resize_nearest(x, [9, 4], align_corners=c))
    case("resize_nearest_scale" + tag, IMAGE, lambda x, c=corners: L.resize_nearest(x, scale=2.0, align_corners=c))
    for mode in (0, 1):
        case(
            f"resize_bilinear_{mode}" + tag,
            IMAGE,
            lambda x, c=corners, m=mode: L.resize_bilinear(x, [9, 4], align_corners=c, align_mode=m),
        )
    case(
        "resize_bicubic" + tag,
        IMAGE,
        lambda x, c=corners: L.image_resize(x, [9, 4], resample="BICUBIC", align_corners=c),
    )
case("resize_odd_scale", IMAGE, lambda x: L.resize_bilinear(x, scale=1.7, align_corners=False, align_mode=0))
case("resize_linear", ROWS, lambda x: L.resize_linear(x, [9]))
case(
    "grid_sampler",
    {"x": ((2, 3, 5, 5), "float32"), "y": ((2, 4, 4, 2), "float32")},
    lambda x, y: L.grid_sampler(x, y / 2),
)
case("affine_grid", {"x": ((2, 2, 3), "float32")}, lambda x: L.affine_grid(x, [2, 3, 4, 5]))
case("pixel_shuffle", IMAGE, lambda x: L.pixel_shuffle(x, 2))
case("shuffle_channel", IMAGE, lambda x: L.shuffle_channel(x, 2))
case("space_to_depth", {"x": ((2, 8, 6, 6), "float32")}, lambda x: L.space_to_depth(x, 2))
case("unfold", IMAGE, lambda x: L.unfold(x, [3, 2], 2, 1))

case("reshape", IMAGE, lambda x: L.reshape(x, [0, 2, -1]))
case("reshape_shape", IMAGE, lambda x: L.reshape(x, [L.shape(x)[0], -1]))
case("transpose", IMAGE, lambda x: L.transpose(x, [0, 2, 3, 1]))
case("flatten", IMAGE, lambda x: L.flatten(x, 2))
case("squeeze", {"x": ((2, 1, 5, 1), "float32")}, lambda x: L.squeeze(x, [1]))
case("unsqueeze", ROWS, lambda x: L.unsqueeze(x, [1, 3]))
case("concat", TWO, lambda x, y: L.concat([x, y], 1))
case("stack", TWO, lambda x, y: L.stack([x, y], 1))
case("unstack", ROWS, lambda x: L.unstack(x, 1, 5)[:2])
case("split", IMAGE, lambda x: L.split(x, 2, 1))
case("split_sections", IMAGE, lambda x: L.split(x, [1, 3, 2], 2))
case("slice", IMAGE, lambda x: L.slice(x, [1, 2], [1, -3], [3, 10000000]))
case("strided_slice", IMAGE, lambda x: L.strided_slice(x, [1, 2], [3, 0], [0, 5], [-1, 2]))
case("expand", ROWS, lambda x: L.expand(x, [1, 2, 3]))
case("expand_as", {"x": ((2, 5, 2), "float32"), "y": ((2, 5, 6), "float32")}, lambda x, y: L.expand_as(x, y))
case("reverse", ROWS, lambda x: L.reverse(x, [1]))
case("pad", ROWS, lambda x: L.pad(x, [0, 0, 1, 2, 0, 1], 0.5))
for mode in ("constant", "reflect", "edge"):
    case("pad2d_" + mode, IMAGE, lambda x, mode=mode: L.pad2d(x, [1, 2, 0, 3], mode))
case(
    "pad_constant_like",
    {"x": ((2, 5, 6), "float32"), "y": ((2, 3, 4), "float32")},
    lambda x, y: L.pad_constant_like(x, y, 1.5),
)
case("crop_tensor", IMAGE, lambda x: L.crop_tensor(x, [-1, 2, 3, 4], [0, 1, 2, 1]))
case("gather", ROWS, lambda x: L.gather(L.transpose(x, [1, 0, 2]), L.assign(np.array([3, 0, 3], "int32"))))
case("embedding", {"x": ((2, 5, 1), "int64")}, lambda x: L.embedding(x, [7, 3], padding_idx=2))
case("embedding_v2", {"x": ((2, 5), "int64")}, lambda x: fluid.embedding(x, [7, 3]))
case("one_hot", {"x": ((2, 1), "int64")}, lambda x: L.one_hot(x, 6))
case("one_hot_v2", {"x": ((2, 5), "int64")}, lambda x: fluid.one_hot(x, 6))
case(
    "where",
    TWO,
    lambda x, y: L.where(x > y, x, y) if hasattr(L, "where") and L.where.__code__.co_argcount > 1 else x + y,
)

for name in ["mean", "sum", "max", "min", "prod"]:
    case("reduce_" + name, ROWS, lambda x, name=name: getattr(L, "reduce_" + name)(x, [1, 2]))
    case("reduce_" + name + "_keep", ROWS, lambda x, name=name: getattr(L, "reduce_" + name)(x, -1, keep_dim=True))
case("reduce_mean_all", ROWS, lambda x: L.reduce_mean(x))
case("mean", ROWS, lambda x: L.mean(x))
case("reduce_all", {"x": ((2, 5), "bool")}, lambda x: L.cast(L.reduce_all(x, 1), "int32"))
case("reduce_any", {"x": ((2, 5), "bool")}, lambda x: L.cast(L.reduce_any(x, 1), "int32"))
case("argmax", ROWS, lambda x: L.argmax(x, 1))
case("argmin", ROWS, lambda x: L.argmin(x, -1))
case("topk", MATRIX, lambda x: L.topk(x, 3))
case("argsort", ROWS, lambda x: L.argsort(x, 1, descending=True))
case("cumsum", ROWS, lambda x: L.cumsum(x, 1, exclusive=True, reverse=True))

case("fill_constant", ROWS, lambda x: x + L.fill_constant([5, 6], "float32", 2.5))
case(
    "fill_batch_like", ROWS, lambda x: L.concat([L.fill_constant_batch_size_like(x, [-1, 2, 6], "float32", 1.5), x], 1)
)
case("zeros_like", ROWS, lambda x: L.zeros_like(x) + 1.0)
case("ones_like", ROWS, lambda x: L.ones_like(x) + x)
case("range", ROWS, lambda x: x + L.cast(L.range(1, 13, 2, "int32"), "float32"))
case("linspace", ROWS, lambda x: x + L.linspace(0.0, 1.0, 6, "float32"))
case("eye", ROWS, lambda x: L.matmul(x, L.eye(6, 4)))
case("assign_value", ROWS, lambda x: x + weight(5, 6))
case("shape", IMAGE, lambda x: L.shape(x))
