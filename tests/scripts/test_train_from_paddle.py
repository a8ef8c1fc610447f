"""train.py and utils/convert_weights.py with trainings of PaddlePaddle: there and back, on images."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file
from training import NETWORK, assert_equal
from training_states import unpack

from utils import convert_weights
from utils.errors import UserError
from utils.training.checkpoint import read_state

# Six steps in two epochs; the average and a rate that moves with every step are to go on too.
FLAGS = {"num_epochs": 2, "use_ema": True, "lr_strategy": "cosine_decay_warmup", "warm_up_epochs": 0.5}
VARIANCE = {"running_variance": "biased"}


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("states"))


def test_there_and_back_to_the_last_bit(train_here, run_script_here, tiny_dataset, tmp_path):
    """A run that goes through fluid's form after its first epoch, and through ours after its fourth step."""
    assert train_here(tiny_dataset, tmp_path / "whole", **FLAGS, **VARIANCE).code == 0
    whole, original = tmp_path / "whole" / NETWORK, tmp_path / "parts" / NETWORK / "0"
    flags = {"model": NETWORK, "class_dim": 4, "training_state": "fluid"}
    run_script_here(convert_weights, input=whole / "0", output=original, **flags)
    result = train_here(tiny_dataset, tmp_path / "parts", **FLAGS, checkpoint=original, max_iter=4)
    assert result.code == 0
    assert f"resumed from {original} (fluid): epoch 1, step 0 of it, 3 steps in all, learning rate " in result.out
    result = train_here(tiny_dataset, tmp_path / "parts", **FLAGS, checkpoint="auto")
    assert result.code == 0 and "epoch 1, step 1 of it" in result.out
    one, other = whole / "latest", tmp_path / "parts" / NETWORK / "latest"
    for name in ("weights.safetensors", "ema_weights.safetensors"):
        tensors, ours = load_file(one / name), load_file(other / name)
        for key in tensors:  # which PaddlePaddle does not count
            if key.endswith("num_batches_tracked"):
                del ours[key]
        assert_equal({key: tensors[key] for key in ours}, ours, name)
    one, other = read_state(one)["training"], read_state(other)["training"]
    assert (one.pop("origin"), other.pop("origin")["form"]) == (None, "fluid")
    assert one["running_variance"] == other["running_variance"] == "biased"
    assert_equal(one, other, "training")
    assert (original / "@LR_DECAY_COUNTER@").is_file()  # nothing has taken its place


def test_an_epoch_of_paddlepaddles_in_the_way_is_kept(train_here, tiny_dataset, tmp_path):
    (tmp_path / NETWORK / "best_model").mkdir(parents=True)
    (tmp_path / NETWORK / "best_model" / "conv1_weights").write_text("of PaddlePaddle's")
    result = train_here(tiny_dataset, tmp_path)
    assert f"it is renamed to {tmp_path / NETWORK / 'best_model.before_1'}\n" in result.err
    assert (tmp_path / NETWORK / "best_model.before_1" / "conv1_weights").read_text() == "of PaddlePaddle's"
    assert (tmp_path / NETWORK / "best_model" / "weights.safetensors").is_file()


def test_bad_states_are_one_line(train_here, tiny_dataset, states, tmp_path):
    prefix = shutil.copytree(states / "momentum_average", tmp_path / "MODEL") / "epoch_2"
    line = train_here(tiny_dataset, tmp_path, checkpoint=prefix).error
    assert line.startswith(f"--checkpoint: {prefix}: it belongs to another network (")
    (tmp_path / "MODEL" / "epoch_2.pdopt").unlink()
    line = train_here(tiny_dataset, tmp_path, checkpoint=prefix).error
    assert "epoch_2.pdopt is missing" in line
    assert not (tmp_path / NETWORK).exists(), "a run that cannot start leaves nothing behind"


def test_conversion_refuses_what_it_cannot_write(run_script_here, states, tmp_path):
    flags = {"model": NETWORK, "class_dim": 4, "training_state": "PaddleClas", "input": tmp_path}
    with pytest.raises(UserError, match=f"--input: {tmp_path} is not a checkpoint of train.py"):
        run_script_here(convert_weights, output=tmp_path / "epoch_1", **flags)
    with pytest.raises(UserError, match=r"epoch_2\.pdparams exists already: give another prefix"):
        run_script_here(convert_weights, output=states / "adamw" / "epoch_2", **flags)
