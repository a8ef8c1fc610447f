"""Trains a small network in a real PaddlePaddle, and keeps its training states and what came after them.

    python tests/support/make_training_states.py tests/fixtures/paddle    (with PaddlePaddle 1.8 or 3.3)

Run by hand, with each of these versions. Writes FOLDER/training_states_VERSION.tar.xz: states as PaddlePaddle saves
them after two epochs of two steps, and figures.json: per case the learning rates and losses of all eight steps, and
the logits, of the average too, of batch 99 at the end. The network is that of tests/support/training_states.py. The
tests read these files, and need no PaddlePaddle.
"""

import copy
import json
import os
import sys
import tarfile
import tempfile

import numpy as np
import paddle

VERSION = paddle.__version__
STEPS, SAVED, PER_EPOCH, EPOCHS = 8, 4, 2, 4
LR, DECAY, EMA = 0.01, 0.1, 0.9


def batch(number):
    """Images and labels of a step."""
    rng = np.random.RandomState(100 + number)
    return rng.uniform(-2, 2, (4, 3, 8, 8)).astype("float32"), rng.randint(0, 6, (4, 1)).astype("int64")


# ---------------------------------------------------------------------------------------------------------- fluid


def fed(number):
    images, labels = batch(number)
    return {"images": images, "labels": labels}


def fluid_case(optimizer, average, folder):
    """Trains, saves in three forms, goes on; with an average every epoch is validated with it, as the original does."""
    from paddle import fluid

    main, start = fluid.Program(), fluid.Program()
    main.random_seed = start.random_seed = 1
    with fluid.program_guard(main, start), fluid.unique_name.guard():
        images = fluid.data("images", [None, 3, 8, 8])
        labels = fluid.data("labels", [None, 1], "int64")
        named = fluid.ParamAttr
        x = fluid.layers.conv2d(images, 4, 3, padding=1, param_attr=named("conv_weights"), bias_attr=False)
        names = {"moving_mean_name": "conv_bn_mean", "moving_variance_name": "conv_bn_variance"}
        scale, offset = named("conv_bn_scale"), named("conv_bn_offset")
        x = fluid.layers.batch_norm(x, act="relu", param_attr=scale, bias_attr=offset, **names)
        x = fluid.layers.pool2d(x, global_pooling=True, pool_type="avg")
        logits = fluid.layers.fc(x, 6, param_attr=named("fc_weights"), bias_attr=named("fc_offset"))
        loss = fluid.layers.mean(fluid.layers.softmax_with_cross_entropy(logits, labels))
        test = main.clone(for_test=True)
        rate = optimizer(fluid).minimize(loss) and main.global_block().var(rate_name(main))
        averages = keep_averages(fluid, main) if average else {}
    executor, scope = fluid.Executor(fluid.CPUPlace()), fluid.Scope()
    figures = {"rates": [], "losses": []}
    with fluid.scope_guard(scope):
        executor.run(start)
        for number in range(STEPS):
            feed = fed(number)
            value, lr = executor.run(main, feed=feed, fetch_list=[loss, rate])
            figures["losses"].append(float(value))
            figures["rates"].append(float(lr))
            if average and number % PER_EPOCH == PER_EPOCH - 1 and number < SAVED:
                # Putting the average in place, the original counts a step.
                counter = scope.find_var("@LR_DECAY_COUNTER@").get_tensor()
                counter.set(np.array(counter) + 1, fluid.CPUPlace())
            if number == SAVED - 1:
                # The original names folders by the epoch, from 0.
                fluid.io.save_persistables(executor, folder + "/1", main)
                fluid.io.save_persistables(executor, folder + "_combined/1", main, filename="params")
                os.makedirs(folder + "_save/1")
                fluid.save(main, folder + "_save/1/state")
                os.remove(folder + "_save/1/state.pdmodel")
        feed = fed(99)
        figures["logits"] = executor.run(test, feed=feed, fetch_list=[logits])[0].tolist()
        if average:
            for name, mean in averages.items():
                values = np.array(scope.find_var(mean).get_tensor())
                scope.find_var(name).get_tensor().set(values, fluid.CPUPlace())
            figures["averaged"] = executor.run(test, feed=feed, fetch_list=[logits])[0].tolist()
    return figures


def keep_averages(fluid, main):
    """Averages of all parameters and statistics, as the original keeps them: name -> name of the average."""
    layers = fluid.layers
    averages = {}
    step = layers.cast(layers.learning_rate_scheduler._decay_step_counter(), "float32")
    decay = layers.create_global_var([1], EMA, "float32", persistable=True, name="scheduled_ema_decay_rate")
    limit = layers.fill_constant([1], "float32", EMA)
    layers.assign(layers.elementwise_min((step + 1.0) / (step + 10.0), limit), decay)
    for tensor in main.global_block().all_parameters():
        averages[tensor.name] = tensor.name + "_ema_0"
        mean = layers.create_global_var(tensor.shape, 0.0, "float32", persistable=True, name=averages[tensor.name])
        layers.assign(mean * decay + tensor * (1.0 - decay), mean)
    return averages


def rate_name(main):
    """The variable that the optimizer takes the learning rate from."""
    return next(op.input("LearningRate")[0] for op in main.global_block().ops if "LearningRate" in op.input_names)


def fluid_cases():
    def cosine(fluid):
        return fluid.layers.cosine_decay(LR, PER_EPOCH, EPOCHS)

    def l2(fluid):
        return fluid.regularizer.L2Decay(DECAY)

    return {
        "momentum": (lambda f: f.optimizer.Momentum(cosine(f), 0.9, regularization=l2(f)), False),
        "rmsprop_average": (
            lambda f: f.optimizer.RMSProp(cosine(f), 0.95, 1.0, 0.9, regularization=l2(f)),
            True,
        ),
        "adam": (lambda f: f.optimizer.Adam(LR), False),
    }


# ----------------------------------------------------------------------------------------------------- PaddlePaddle 3


def build_network():
    nn = paddle.nn
    network = nn.Layer()
    network.conv = nn.Layer()
    network.conv.conv = nn.Conv2D(3, 4, 3, padding=1, bias_attr=False)
    network.conv.bn = nn.BatchNorm(4, act="relu")
    network.fc = nn.Linear(4, 6)
    network.forward = lambda x: network.fc(network.conv.bn(network.conv.conv(x)).mean((2, 3)))
    return network


def paddle_case(optimizer, average, folder):
    """Trains, saves and goes on as PaddleClas does."""
    paddle.seed(1)
    with paddle.utils.unique_name.guard():
        network = build_network()
        rate = paddle.optimizer.lr.CosineAnnealingDecay(LR, PER_EPOCH * (EPOCHS - 1))
        rate = paddle.optimizer.lr.LinearWarmup(rate, PER_EPOCH, 0.0, LR)
        trainer = optimizer(rate, network)
        averaged = copy.deepcopy(network) if average else None
    figures = {"rates": [], "losses": []}
    for number in range(STEPS):
        images, labels = map(paddle.to_tensor, batch(number))
        loss = paddle.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        figures["rates"].append(trainer.get_lr())
        figures["losses"].append(float(loss))
        trainer.step()
        trainer.clear_grad()
        rate.step()
        if average:
            with paddle.no_grad():
                tensors = network.state_dict()
                for name, tensor in averaged.state_dict().items():
                    tensor.set_value(EMA * tensor + (1 - EMA) * tensors[name])
        if number == SAVED - 1:
            save(network, trainer, averaged, folder)
    images = paddle.to_tensor(batch(99)[0])
    network.eval()
    figures["logits"] = network(images).tolist()
    if average:  # the copy's forward is that of the network
        network.set_state_dict(averaged.state_dict())
        figures["averaged"] = network(images).tolist()
    return figures


def save(network, trainer, averaged, folder):
    prefix = folder + "/epoch_" + str(SAVED // PER_EPOCH)
    paddle.save((averaged or network).state_dict(), prefix + ".pdparams")
    paddle.save([trainer.state_dict()], prefix + ".pdopt")
    paddle.save({"metric": 0.25, "epoch": SAVED // PER_EPOCH}, prefix + ".pdstates")
    if averaged:
        paddle.save(network.state_dict(), prefix + ".pdema")


def half_precision_case(optimizer, average, folder):
    """What PaddlePaddle keeps of a training in half precision, which a CPU cannot do: with drawn values, untrained."""
    with paddle.utils.unique_name.guard():
        network = build_network()
        for layer in (network.conv.conv, network.fc):
            layer.to(dtype="float16")
        trainer = optimizer(0.01, network)
        trainer._multi_precision = True
        block = paddle.static.default_main_program().global_block()
        trainer._create_accumulators(block, [tensor for tensor in network.parameters() if tensor.trainable])
    rng = np.random.RandomState(0)
    state = trainer.state_dict()
    for name, tensor in {**state, **state["master_weights"]}.items():
        if name != "master_weights":
            tensor.set_value(rng.uniform(-1, 1, tensor.shape).astype("float32"))
    for parameter in network.parameters():
        if parameter.name in state["master_weights"]:
            parameter.set_value(state["master_weights"][parameter.name].astype("float16"))
    save(network, trainer, None, folder)
    return {}


def paddle_cases():
    def momentum(rate, network):
        decay = paddle.regularizer.L2Decay(DECAY)
        return paddle.optimizer.Momentum(rate, 0.9, network.parameters(), weight_decay=decay)

    def adamw(rate, network):
        decayed = [parameter.name for parameter in network.parameters() if len(parameter.shape) > 1]
        return paddle.optimizer.AdamW(
            rate, parameters=network.parameters(), weight_decay=DECAY, apply_decay_param_fun=lambda n: n in decayed
        )

    return {"momentum_average": (momentum, True), "adamw": (adamw, False), "half": (momentum, False)}


def main():
    is_fluid = VERSION.startswith("1.")
    cases = fluid_cases() if is_fluid else paddle_cases()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (optimizer, average) in cases.items():
            os.makedirs(os.path.join(folder, name))
            run = fluid_case if is_fluid else half_precision_case if name == "half" else paddle_case
            figures[name] = run(optimizer, average, os.path.join(folder, name))
        with open(os.path.join(folder, "figures.json"), "w") as file:
            json.dump(figures, file)
        target = os.path.join(sys.argv[1], "training_states_{}.tar.xz".format(VERSION.rsplit(".", 1)[0]))
        with tarfile.open(target, "w:xz") as archive:
            for root, _, files in sorted(os.walk(folder)):
                for file in sorted(files):
                    path = os.path.join(root, file)
                    info = archive.gettarinfo(path, os.path.relpath(path, folder))
                    info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
                    with open(path, "rb") as content:
                        archive.addfile(info, content)


if __name__ == "__main__":
    main()
