"""Asks a real PaddlePaddle what its inference engine makes of small networks, and what these answer.

    python tests/support/make_optimized_cases.py tests/fixtures/paddle    (with PaddlePaddle 2.6 or 3.3)

Run by hand, with each of these versions. Writes FOLDER/optimized_VERSION.tar.xz, as `make_paddle_cases` does: programs
as `enable_save_optim_model` saves them, with oneDNN and without. The answers are those of the program before.
"""

import functools
import io
import os
import pickle
import sys
import tarfile
import tempfile

import numpy as np
import paddle
import paddle.nn.functional as F
from make_paddle_cases import add, without_callstack
from paddle import inference, nn
from paddle_given import given

VERSION = paddle.__version__


class Network(nn.Layer):
    """Layers that are made when the network is called for the first time, in the order of use."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.layers = nn.LayerList()
        self.place = 0

    def layer(self, make):
        if self.place == len(self.layers):
            self.layers.append(make())
        self.place += 1
        return self.layers[self.place - 1]

    def conv(self, x, channels, size=3, groups=1, norm=True, **options):
        options = {"padding": size // 2, "bias_attr": None if not norm else False, **options}
        x = self.layer(lambda: nn.Conv2D(x.shape[1], channels, size, groups=groups, **options))(x)
        return self.layer(lambda: normalized(channels))(x) if norm else x

    def linear(self, x, features, **options):
        return self.layer(lambda: nn.Linear(x.shape[-1], features, **options))(x)

    def forward(self, x):
        self.place = 0
        return self.function(self, x)


def normalized(channels):
    """A batch norm with statistics, as after a training."""
    random = np.random.RandomState(channels)
    layer = nn.BatchNorm2D(channels)
    for parameter, low, high in (
        (layer._mean, -0.1, 0.1), (layer._variance, 0.5, 1.5), (layer.weight, 0.5, 1.5), (layer.bias, -0.1, 0.1),
    ):  # fmt: skip
        parameter.set_value(random.uniform(low, high, [channels]).astype("float32"))
    return layer


ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "swish": F.swish,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate=True),
    "clip": lambda x: paddle.clip(x, -0.25, 0.5),
    "abs": paddle.abs,
    "sqrt": lambda x: paddle.sqrt(paddle.abs(x)),
    "elu": F.elu,
    "spelled": lambda x: x * F.relu6(x + 3) / 6,
}


def convolution_and(net, x, activation):
    x = activation(net.conv(x, 4))
    return activation(net.conv(x, 4, norm=False) + net.conv(x, 4, 1, norm=False))


def linear_and(net, x, activation):
    x = paddle.reshape(activation(net.linear(paddle.flatten(x, 1), 8)), [-1, 2, 4])
    return activation(paddle.matmul(x, x, transpose_y=True))


def residuals(net, x):
    y = F.relu(net.conv(x, 4))
    y = F.relu(net.conv(y, 4) + x)
    z = F.hardswish(net.conv(y, 4)) + y
    y = net.conv(z, 8, 1) + net.conv(z, 8, norm=False)
    return F.relu(y * F.sigmoid(net.conv(F.adaptive_avg_pool2d(y, 1), 8, 1, norm=False)))


def depthwise(net, x):
    x = F.relu6(net.conv(x, 8, 3, groups=4))
    x = F.hardswish(net.conv(x, 8, 5, groups=8))
    return net.conv(x, 6, 1)


def padded(net, x):
    x = F.relu(net.conv(x, 4, 3, padding="SAME", stride=2))
    x = F.relu(net.conv(x, 4, 2, padding=[1, 0, 2, 1]))
    return net.conv(F.pad(x, [1, 2, 0, 1]), 5, 3, padding=0)


def classifier(net, x):
    """Wide enough for weights that are padded, and three layers that become one."""
    x = paddle.flatten(F.adaptive_avg_pool2d(x, 4), 1)
    x = F.relu(net.linear(x, 128))
    x = F.dropout(F.relu(net.linear(x, 128)), 0.5, training=False)
    return F.softmax(net.linear(x, 10))


def attention(net, x):
    tokens = paddle.transpose(paddle.flatten(net.conv(x, 8, 2, norm=False, stride=2, padding=0), 2), [0, 2, 1])
    tokens = net.layer(lambda: nn.LayerNorm(8))(tokens)
    mixed = paddle.transpose(paddle.reshape(net.linear(tokens, 24), [-1, 9, 3, 2, 4]), [2, 0, 3, 1, 4])
    query, key, value = mixed[0], mixed[1], mixed[2]
    weights = F.softmax(paddle.matmul(query, key, transpose_y=True) * 0.5)
    result = paddle.reshape(paddle.transpose(paddle.matmul(weights, value), [0, 2, 1, 3]), [-1, 9, 8])
    tokens = tokens + net.linear(result, 8)
    tokens = tokens + net.linear(F.gelu(net.linear(net.layer(lambda: nn.LayerNorm(8))(tokens), 16)), 8)
    return net.linear(tokens.mean(1), 5)


def products(net, x):
    rows = paddle.flatten(net.conv(x, 4, norm=False), 2)
    turned = paddle.transpose(rows, [0, 2, 1])
    product = F.relu(paddle.matmul(rows, turned) * 0.25)
    scaled = paddle.matmul(product, rows) + rows
    return paddle.reshape(paddle.transpose(paddle.matmul(turned, scaled), [0, 2, 1]), [-1, 6, 6, 36])


def pairs(net, x):
    y = net.conv(x, 4, norm=False)
    y = F.relu(y + x) * F.sigmoid(x - y)
    y = F.gelu(paddle.divide(y, x * x + 1))
    return paddle.unsqueeze(y * x, [2]) * 0.5


def scaled_behind(net, x):
    """A factor after an activation, and another shape."""
    x = F.relu(net.conv(x, 4) + x) * 0.5
    x = F.sigmoid(x + net.conv(x, 4, 1)) * 0.25
    rows = paddle.flatten(x, 2)
    y = F.relu(paddle.matmul(rows, rows, transpose_y=True)) * 0.5
    y = paddle.unsqueeze(F.tanh(y - paddle.matmul(rows, rows, transpose_y=True)), [1])
    z = F.gelu(net.linear(rows, 6)) * 0.25
    return paddle.reshape(net.linear(y * 2.0, 6), [-1, 4, 3, 2]) + paddle.reshape(z, [-1, 4, 3, 2])


def shuffled(net, x):
    left, right = paddle.split(net.conv(x, 8, 1), 2, axis=1)
    x = paddle.concat([left, F.relu(net.conv(right, 4))], axis=1)
    x = paddle.reshape(paddle.transpose(paddle.reshape(x, [-1, 2, 4, 6, 6]), [0, 2, 1, 3, 4]), [-1, 8, 6, 6])
    return F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 2, 2)


def resized(net, x):
    y = net.conv(F.avg_pool2d(x, 2, 2), 4, 1)
    y = F.interpolate(y, scale_factor=2, mode="bilinear") + F.interpolate(y, scale_factor=2, mode="nearest")
    y = net.layer(lambda: nn.PReLU(4))(y) + x
    return F.softplus(F.log_softmax(F.local_response_norm(y, 5), 1)) * F.tanh(y)


def turned_back(net, x):
    x = net.layer(lambda: nn.Conv2DTranspose(4, 6, 2, 2))(x)
    x = F.relu(net.layer(lambda: normalized(6))(x))
    x = net.layer(lambda: nn.GroupNorm(2, 6))(x)
    return net.layer(lambda: nn.Conv2DTranspose(6, 3, 3, 1, 1, bias_attr=False))(x)


NETWORKS = {function.__name__: function for function in (
    residuals, depthwise, padded, classifier, attention, products, pairs, scaled_behind, shuffled, resized, turned_back,
)}  # fmt: skip
CASES = {**NETWORKS}
for _name, _activation in ACTIVATIONS.items():
    CASES[f"convolution_{_name}"] = functools.partial(convolution_and, activation=_activation)
    if _name != "sqrt":  # the engine loses the absolute value before it
        CASES[f"linear_{_name}"] = functools.partial(linear_and, activation=_activation)


def optimized(folder, onednn, images):
    """The program that the engine saves, its parameters, and the outputs of the engine."""
    source = next(name for name in os.listdir(folder) if name.endswith((".json", ".pdmodel")))
    config = inference.Config(os.path.join(folder, source), os.path.join(folder, "case.pdiparams"))
    config.disable_gpu()
    if onednn:
        config.enable_mkldnn()
    elif hasattr(config, "disable_mkldnn"):
        config.disable_mkldnn()
    config.switch_ir_optim(True)
    config.enable_save_optim_model(True)
    config.set_optim_cache_dir(os.path.join(folder, "cache"))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(images)
    predictor.run()
    outputs = [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]
    contents = {}
    for name in os.listdir(os.path.join(folder, "cache")):
        with open(os.path.join(folder, "cache", name), "rb") as file:
            contents[name.split(".")[-1]] = file.read()
    program = contents["json"] if "json" in contents else without_callstack(contents["pdmodel"])
    return program, contents["pdiparams"], outputs


def optimized_aside(folder, onednn, images):
    """`optimized` in a process of its own, as PaddlePaddle 3.3 ends some; None if it does."""
    path = os.path.join(folder, "result")
    child = os.fork()
    if child == 0:
        try:
            with open(path, "wb") as file:
                pickle.dump(optimized(folder, onednn, images), file)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        return None
    with open(path, "rb") as file:
        return pickle.load(file)


def main():
    target = os.path.join(sys.argv[1], f"optimized_{'.'.join(VERSION.split('.')[:2])}.tar.xz")
    only = sys.argv[2:]
    spec = [paddle.static.InputSpec([None, 4, 6, 6], "float32", "x")]
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for name, function in CASES.items():
            if only and name not in only:
                continue
            paddle.seed(1)
            images = given(name, {"x": ((2, 4, 6, 6), "float32")})["x"]
            network = Network(function)
            network(paddle.to_tensor(images))
            network.eval()
            answers = io.BytesIO()
            np.savez(answers, out0=network(paddle.to_tensor(images)).numpy())
            for engine in ("plain", "onednn") if name in NETWORKS else ("onednn",):
                with tempfile.TemporaryDirectory() as folder:
                    paddle.jit.save(paddle.jit.to_static(network, spec), os.path.join(folder, "case"))
                    os.mkdir(os.path.join(folder, "cache"))
                    result = optimized_aside(folder, engine == "onednn", images)
                if result is None:
                    print(f"{name}, {engine}: PaddlePaddle {VERSION} cannot do it")
                    continue
                program, parameters, outputs = result
                difference = np.abs(outputs[0] - np.load(io.BytesIO(answers.getvalue()))["out0"]).max()
                print(f"{name}, {engine}: the engine is {difference:.1e} from the network")
                for part, data in (("program", program), ("params", parameters), ("answers.npz", answers.getvalue())):
                    add(archive, f"{name}:{engine}/{part}", data)
    print(f"{os.path.getsize(target)} bytes in {target}")


if __name__ == "__main__":
    main()
