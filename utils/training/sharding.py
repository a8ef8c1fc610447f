"""Networks of several processes: whole in each (DDP), or a part in each (--fsdp), with whole ones from parts and back.

Every process has to call these functions. In checkpoints everything is whole, as that of one process: any number of
processes goes on from there, with parts or without.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import sys
import weakref
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.activation_checkpointing import repeated_blocks
from models.network import Network, shapes_only
from utils.console import is_main_process, log
from utils.devices import amp_dtype
from utils.errors import FlagError, UserError
from utils.flags.kinds import AUTO
from utils.processes import broadcast_module, world_size
from utils.training.ema import ExponentialMovingAverage

if TYPE_CHECKING:  # they take a second to import, and only --fsdp needs them
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

# A single layer with more numbers is a part of its own: a classifier of many classes.
LARGE = 1 << 20

# Sharded network -> the same without values, to be filled.
_outlines: weakref.WeakKeyDictionary[nn.Module, Network] = weakref.WeakKeyDictionary()


def check_fsdp(args: argparse.Namespace, device: torch.device) -> None:
    """Raises `FlagError` for flags that --fsdp does not go with."""
    if not args.fsdp:
        return
    wrong = {
        "--use_distill": args.use_distill,
        "--use_compile": args.use_compile,
        "--fuse_elewise_add_act_ops": args.fuse_elewise_add_act_ops,
        "--fuse_bn_act_ops": args.fuse_bn_act_ops,
        "--batch_size=auto": args.batch_size == AUTO,  # which is tried with a whole network
    }
    if flag := next((flag for flag, given in wrong.items() if given), None):
        raise FlagError(f"--fsdp does not go with {flag}: leave out one of them")
    if amp_dtype(args, device) == torch.float16:
        raise FlagError("--fsdp computes in float32 or bfloat16, which need no loss scale: give --amp_dtype=bfloat16")


def distribute(network: nn.Module, args: argparse.Namespace, device: torch.device) -> nn.Module:
    """A network that every process holds, with gradients of all of them."""
    # Batch-norm statistics stay with their process; those of rank 0 are handed round before they are used.
    # (PyTorch 2.13 renamed the option.)
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {option: False}
    return DistributedDataParallel(
        network,
        device_ids=[device.index] if device.type == "cuda" else None,
        **options,
        gradient_as_bucket_view=True,
        static_graph=args.accumulate_steps == 1,
    )


def divides(args: argparse.Namespace) -> bool:
    """Whether each process is to hold a part of the network."""
    return args.fsdp and world_size() > 1


def divide(model: Network, args: argparse.Namespace, device: torch.device) -> ExponentialMovingAverage | None:
    """Leaves each process a part of the network, and of its average, which is returned if the flags ask for one."""
    ema = None
    if args.use_ema:
        broadcast_module(model)
        ema = ExponentialMovingAverage(model, args.ema_decay, args.ema_warm_up)
        shard(ema.model, device)
    own, all_ = shard(model, device)
    if ema is not None:
        ema.follow(model)
    log(
        f"--fsdp: each of {world_size()} processes holds {own / 1e6:.1f} of {all_ / 1e6:.1f} MB of parameters, and the "
        "same share of gradients and of what the optimizer keeps"
    )
    return ema


def shard(model: Network, device: torch.device) -> tuple[int, int]:
    """Leaves each process a part of every parameter; the whole ones are there only while they are computed with.

    What is gathered at a time are the network's repeated blocks, large layers, and the rest.

    Args:
        model: on the CPU or `device`; each process gets rank 0's.
        device: where the parts are to be.

    Returns:
        Bytes of parameters in this process, and of all.

    Raises:
        UserError: the network cannot be divided.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    broadcast_module(model)
    outline = shapes_only(model)
    mesh = init_device_mesh(device.type, (world_size(),))
    blocks = repeated_blocks(model)
    inside = {module for block in blocks for module in block.modules()}
    large = [
        module
        for module in model.modules()
        if type(module) is nn.Linear and module not in inside and module.weight.numel() >= LARGE
    ]
    try:
        for part in (*blocks, *large, model):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"--fsdp: {type(model).__name__} cannot be divided ({error}): leave it out") from None
    _outlines[model] = outline
    parameters = list(model.parameters())
    return sum(local(parameter).nbytes for parameter in parameters), sum(parameter.nbytes for parameter in parameters)


def is_sharded(model: nn.Module) -> bool:
    """Whether the processes hold parts of a network."""
    return model in _outlines


def is_divided(tensor: Any) -> TypeIs[DTensor]:
    """Whether this process has a part of a tensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has."""
    return tensor.to_local() if is_divided(tensor) else tensor


def gathered(state: Any) -> Any:
    """A state with whole tensors, on the CPU, for those that are divided; only of use in the main process."""
    if is_divided(state):
        whole = state.full_tensor()
        return whole.cpu() if is_main_process() else None
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    return [gathered(value) for value in state] if isinstance(state, list) else state


def whole(model: Network) -> Network:
    """A network to be saved: itself, or of one that is divided a whole copy on the CPU (in the main process)."""
    if not is_sharded(model):
        return model
    state = gathered(dict(model.state_dict()))
    network = copy.deepcopy(_outlines[model])
    if is_main_process():
        network.load_state_dict(state, assign=True)
    return network


def empty(model: Network) -> Network:
    """A whole network on the CPU, like one that is divided, to be filled and given to `fill`."""
    return copy.deepcopy(_outlines[model]).to_empty(device="cpu")


@torch.no_grad()
def fill(model: Network, network: Network | None) -> None:
    """Gives every process its part of the parameters, and all buffers, of the main process's `network`."""
    source = network.state_dict() if network is not None else {}
    for key, target in model.state_dict().items():
        if is_divided(target):
            target.to_local().copy_(spread(source.get(key), target).to_local())
        else:
            if network is not None:
                target.copy_(source[key])
            dist.broadcast(target, src=0)


def spread(value: Tensor | None, like: DTensor) -> DTensor:
    """Divides the main process's `value` as another tensor is; of the others' it is only asked for."""
    from torch.distributed.tensor import distribute_tensor

    device, dtype = like.device, like.dtype if value is None else value.dtype
    source = value.to(device) if value is not None and is_main_process() else None
    if source is None:
        source = torch.empty(like.shape, dtype=dtype, device=device)
    divided = distribute_tensor(source.contiguous(), like.device_mesh, like.placements)
    assert is_divided(divided)
    return divided


def outlined(state: Any) -> Any:
    """A state whose tensors, single numbers aside, have shapes and no values: for processes that get parts of them."""
    if isinstance(state, Tensor):
        return state.to("meta") if state.dim() else state
    if isinstance(state, dict):
        return {key: outlined(value) for key, value in state.items()}
    return state


def divided_state(state: dict[int, dict[str, Any]], parameters: list[nn.Parameter]) -> dict[int, dict[str, Any]]:
    """An optimizer's saved state, by the numbers of its parameters, divided as they are.

    Raises:
        ValueError: of another shape than its parameter.
    """
    divided: dict[int, dict[str, Any]] = {}
    for number, values in state.items():
        parameter: Any = parameters[number]
        divided[number] = dict(values)
        for name, value in values.items():
            if not isinstance(value, Tensor) or not value.dim():
                continue
            if value.shape != parameter.shape:
                raise ValueError(f"its {name} is {list(value.shape)} for a tensor of {list(parameter.shape)}")
            divided[number][name] = spread(value, parameter)
    return divided
