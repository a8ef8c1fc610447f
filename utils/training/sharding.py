"""Distributed networks: replicated (DDP) or sharded (--fsdp), with conversion between whole and sharded ones.

Every process must call these functions. Checkpoints contain whole networks, as from one process, so any number of
processes can continue from them, sharded or not.
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

if TYPE_CHECKING:  # slow imports that only --fsdp needs
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

# A layer with more parameters is a separate shard group: a classifier of many classes.
LARGE = 1 << 20

# Sharded network -> the same without values, to fill in.
_outlines: weakref.WeakKeyDictionary[nn.Module, Network] = weakref.WeakKeyDictionary()


def check_fsdp(args: argparse.Namespace, device: torch.device) -> None:
    """Raises `FlagError` for flags that do not work with --fsdp."""
    if not args.fsdp:
        return
    wrong = {
        "--use_distill": args.use_distill,
        "--use_compile": args.use_compile,
        "--fuse_elewise_add_act_ops": args.fuse_elewise_add_act_ops,
        "--fuse_bn_act_ops": args.fuse_bn_act_ops,
        "--batch_size=auto": args.batch_size == AUTO,  # which tries a whole network
    }
    if flag := next((flag for flag, given in wrong.items() if given), None):
        raise FlagError(f"--fsdp does not work with {flag}: leave out one of them")
    if amp_dtype(args, device) == torch.float16:
        raise FlagError("--fsdp does not support float16, which needs a loss scale: give --amp_dtype=bfloat16")


def distribute(network: nn.Module, args: argparse.Namespace, device: torch.device) -> nn.Module:
    """Replicates a network in every process and averages the gradients."""
    # Batch norm statistics stay local; rank 0's are broadcast before use. (PyTorch 2.13 renamed the option.)
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
    """Whether to shard the network over the processes."""
    return args.fsdp and world_size() > 1


def divide(model: Network, args: argparse.Namespace, device: torch.device) -> ExponentialMovingAverage | None:
    """Shards the network, and its average, which is returned if the flags ask for one."""
    ema = None
    if args.use_ema:
        broadcast_module(model)
        ema = ExponentialMovingAverage(model, args.ema_decay, args.ema_warm_up)
        shard(ema.model, device)
    own, all_ = shard(model, device)
    if ema is not None:
        ema.follow(model)
    log(
        f"--fsdp: each of {world_size()} processes holds {own / 1e6:.1f} of {all_ / 1e6:.1f} MB of parameters, and "
        "the same share of gradients and optimizer state"
    )
    return ema


def shard(model: Network, device: torch.device) -> tuple[int, int]:
    """Leaves each process a part of every parameter; whole parameters exist only while in use.

    The network's repeated blocks, large layers, and the rest are gathered separately.

    Args:
        model: on the CPU or `device`; rank 0's is used.
        device: where to put the parts.

    Returns:
        Bytes of parameters in this process, and in total.

    Raises:
        UserError: the network cannot be sharded.
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
        raise UserError(f"--fsdp: {type(model).__name__} cannot be sharded ({error}): leave the flag out") from None
    _outlines[model] = outline
    parameters = list(model.parameters())
    return sum(local(parameter).nbytes for parameter in parameters), sum(parameter.nbytes for parameter in parameters)


def is_sharded(model: nn.Module) -> bool:
    """Whether a network is sharded."""
    return model in _outlines


def is_divided(tensor: Any) -> TypeIs[DTensor]:
    """Whether a tensor is sharded."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if is_divided(tensor) else tensor


def gathered(state: Any) -> Any:
    """A state with sharded tensors made whole, on the CPU; valid only in the main process."""
    if is_divided(state):
        whole = state.full_tensor()
        return whole.cpu() if is_main_process() else None
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    return [gathered(value) for value in state] if isinstance(state, list) else state


def whole(model: Network) -> Network:
    """A network to save: itself or, if sharded, a whole copy on the CPU (in the main process)."""
    if not is_sharded(model):
        return model
    state = gathered(dict(model.state_dict()))
    network = copy.deepcopy(_outlines[model])
    if is_main_process():
        network.load_state_dict(state, assign=True)
    return network


def empty(model: Network) -> Network:
    """A whole network on the CPU, like a sharded one, to load values into and pass to `fill`."""
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
    """Shards the main process's `value` like another tensor; the other processes only receive."""
    from torch.distributed.tensor import distribute_tensor

    device, dtype = like.device, like.dtype if value is None else value.dtype
    source = value.to(device) if value is not None and is_main_process() else None
    if source is None:
        source = torch.empty(like.shape, dtype=dtype, device=device)
    divided = distribute_tensor(source.contiguous(), like.device_mesh, like.placements)
    assert is_divided(divided)
    return divided


def outlined(state: Any) -> Any:
    """A state whose tensors, except scalars, have shapes but no values, for processes that receive parts of them."""
    if isinstance(state, Tensor):
        return state.to("meta") if state.dim() else state
    if isinstance(state, dict):
        return {key: outlined(value) for key, value in state.items()}
    return state


def divided_state(state: dict[int, dict[str, Any]], parameters: list[nn.Parameter]) -> dict[int, dict[str, Any]]:
    """An optimizer's saved state by parameter number, sharded like the parameters.

    Raises:
        ValueError: a shape differs from its parameter's.
    """
    divided: dict[int, dict[str, Any]] = {}
    for number, values in state.items():
        parameter: Any = parameters[number]
        divided[number] = dict(values)
        for name, value in values.items():
            if not isinstance(value, Tensor) or not value.dim():
                continue
            if value.shape != parameter.shape:
                raise ValueError(f"its {name} has shape {list(value.shape)}, but the parameter {list(parameter.shape)}")
            divided[number][name] = spread(value, parameter)
    return divided
