"""--fsdp: two processes, each with a part of the network, train what one does, and any number of them goes on."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file
from training import command_line, losses

import train
from utils.errors import FlagError
from utils.flags import parse
from utils.training.checkpoint import EMA_WEIGHTS, WEIGHTS
from utils.training.sharding import check_fsdp

NETWORK = "DeiT_tiny_patch16_224"
# train.py with a network of two blocks.
SHALLOW = """
import functools, runpy
from models import deit
tiny = deit.DeiT_tiny_patch16_224
deit.DeiT_tiny_patch16_224 = functools.partial(tiny.func, **tiny.keywords | {{"depth": 2}})
runpy.run_path({train!r}, run_name="__main__")
"""
# Without batch norm, whose statistics are of each process's images, and drop path, which each draws for itself.
FLAGS = {
    "model": NETWORK,
    "drop_path": 0,
    "lr": 0.05,
    "clip_norm": 1.0,
    "accumulate_steps": 2,
    "batch_size": 8,
    "test_batch_size": 2,
    "use_ema": True,
    "ema_warm_up": False,
    "max_iter": 3,
    "num_epochs": 2,
}


def test_two_processes_with_parts_train_what_one_does(launch, data, tmp_path):
    """16 images make two steps an epoch; of 15 validation images one process has one more than the other."""
    for name, kept in (("train", slice(None, None, 3)), ("val", slice(15))):
        path = data / f"{name}_list.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[kept]))

    (tmp_path / "train.py").write_text(SHALLOW.format(train=train.__file__))

    def run(count: int, out: str, **flags: object) -> str:
        words = command_line(data, tmp_path / out, **FLAGS | {"fsdp": count > 1} | flags)
        result = launch(str(tmp_path / "train.py"), count, tmp_path, *words)
        assert result.codes == [0] * count, result.err
        return "\n".join(result.out)

    alone = run(1, "alone")
    began = run(1, "two", max_iter=1)
    resumed = run(2, "two", checkpoint="auto")
    own, all_ = map(float, re.findall(r"each of 2 processes holds ([\d.]+) of ([\d.]+) MB of parameters", resumed)[0])
    assert own == pytest.approx(all_ / 2, abs=0.1 * all_)
    then_one = run(1, "one", checkpoint=tmp_path / "two" / NETWORK / "0")
    expected = losses(alone)
    assert len(expected) == 3
    assert losses(began) + losses(resumed) == pytest.approx(expected, abs=2e-5)
    assert losses(then_one) == pytest.approx(expected[2:], abs=2e-5)
    figures = [re.findall(r"\[End pass 0\].*(test_loss \S+), .*(test_ema_loss \S+),", out) for out in (resumed, alone)]
    assert figures[0] == figures[1] and figures[0]
    for name in (WEIGHTS, EMA_WEIGHTS):
        whole, parts = (load_file(tmp_path / run / NETWORK / "latest" / name) for run in ("alone", "two"))
        assert whole.keys() == parts.keys()
        for key, value in whole.items():
            torch.testing.assert_close(parts[key], value, atol=2e-5, rtol=0, msg=key)


@pytest.mark.parametrize(
    "flag",
    ["--use_distill=True", "--use_compile=True", "--fuse_bn_act_ops=True", "--batch_size=auto", "--use_fp16=True"],
)
def test_what_does_not_go_with_parts_is_refused(flag):
    args = parse("train", ["--fsdp=True", "--amp_dtype=float16", flag])
    with pytest.raises(FlagError, match=r"--fsdp (does not work with --|does not support float16)"):
        check_fsdp(args, torch.device("cpu"))
    check_fsdp(parse("train", ["--fsdp=True", "--use_fp16=True"]), torch.device("cpu"))  # bfloat16 there
