"""The list of networks: `models.ResNet50_vd(class_dim=1000)` builds one, `models.list_models()` names them all.

A network's module is imported only when the network is built, so names can be listed and checked without PyTorch.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import re
from types import ModuleType
from typing import TYPE_CHECKING, Any

from models.families import FAMILIES
from models.inputs import InputConfig

if TYPE_CHECKING:
    from models.network import Network

_MODULES = {name: module for module, names in FAMILIES.items() for name in names}


def list_models(pattern: str = "*") -> list[str]:
    """The names of all networks that match a shell pattern such as `ResNet*_vd`, sorted."""
    return sorted(fnmatch.filter(_MODULES, pattern))


def _letters(name: str) -> str:
    """A network's name without capitals, hyphens and underscores, which other programs write differently."""
    return "".join(filter(str.isalnum, name.lower()))


def _unknown(name: str) -> str:
    """The error for an unknown name, with similar names."""
    spelt: dict[str, list[str]] = {}
    for known in _MODULES:
        spelt.setdefault(_letters(known), []).append(known)
    typed = name.rpartition("/")[2].partition(".")[0]  # microsoft/resnet-50, convnext_tiny.fb_in1k
    asked = _letters(typed)
    family = re.split("[^a-z]", typed.lower())[0]  # the family's name counts for more than the other letters
    relatives = [letters for letters in spelt if len(family) > 2 and letters.startswith(family)]
    close = difflib.get_close_matches(asked, relatives or spelt, n=3, cutoff=0.2 if relatives else 0.5)
    near = spelt.get(asked) or [known for letters in close for known in spelt[letters]]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {len(_MODULES)}, such as ResNet50_vd"
    return f"unknown network {name!r}: {hint}"


def check_name(name: str) -> None:
    """Raises `ValueError` with similar names if there is no network `name`."""
    if name not in _MODULES:
        raise ValueError(_unknown(name))


def _module(name: str) -> ModuleType:
    """The module that builds network `name`."""
    check_name(name)
    return importlib.import_module(f"models.{_MODULES[name]}")


def input_config(name: str, published_by: str = "") -> InputConfig:
    """The input that network `name` was published with, as its module says; see `models.inputs`.

    Args:
        name: the network's name.
        published_by: "PaddleClas" for PaddleClas's weights, whose input may differ from that of fluid's weights.

    Raises:
        ValueError: there is no such network.
    """
    said = vars(_module(name))
    inputs: dict[str, InputConfig] = said.get("INPUTS", {})
    if published_by == "PaddleClas":
        inputs = said.get("PADDLECLAS_INPUTS", inputs)
    return next((config for pattern, config in inputs.items() if fnmatch.fnmatchcase(name, pattern)), InputConfig())


def build(name: str, **options: Any) -> Network:
    """Builds network `name`; `options` are arguments of its constructor, such as `class_dim`.

    Raises:
        ValueError: there is no such network, or it cannot be built with these options (an `OptionError`).
    """
    return getattr(_module(name), name)(**options)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(_module(name), name)
    raise AttributeError(f"models: {_unknown(name)}")


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
