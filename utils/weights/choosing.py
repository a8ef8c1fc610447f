"""Chooses a network's tensors in a file that has them under a key, with a prefix, or together with another network.

Names decide: `student.backbone.conv1.weight` ends in a name of the network, so its prefix is `student.backbone.`. The
prefix with most of the network's names is chosen. All other tensors are counted and reported, never mixed in.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from utils.errors import FormatError, cut
from utils.weights.content import Weights

# Wrapper modules without computation: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# Usual keys of the network's state dict, which are not reported. Other keys work too, if the tensors fit.
USUAL_KEYS = ("state_dict", "model", "model_state_dict", "net", "network", "params", "weights", "module")
_AVERAGES = ("ema", "model_ema", "state_dict_ema")

# Words in the keys of a weight average, or of the slower of two networks that train together.
_SLOWER = frozenset(
    ("ema", "average", "averaged", "avg", "swa", "teacher", "momentum", "target", "k", "slow", "shadow")
)

# What trainers save with the network; these entries are ignored silently.
_OF_TRAINING = re.compile(r"(?i)(.*[._])?(optim|opt\b|lr_sched|sched|scaler|amp|grad|criterion)")


class AmbiguousError(FormatError):
    """A file has several networks that fit, and nothing says which one to use."""


@dataclass(frozen=True)
class Chosen:
    """The tensors of a file that belong to a network.

    Attributes:
        weights: only these tensors, by their names without prefix.
        prefix: the prefix of these names in the file, with its final dot; "" for none.
        also: other prefixes, without the final dot, with tensors of the same network.
        moved: the network's names -> names in the file, for tensors with another prefix.
        outside: names of the file's other tensors.
    """

    weights: Weights
    prefix: str = ""
    also: tuple[str, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)
    outside: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The prefix for messages, without its dot; "" if it is a usual one."""
        key = self.prefix.removesuffix(".")
        return "" if not self.also and set(key.split(".")) <= {*USUAL_KEYS, ""} else key


def choose(weights: Weights, vocabularies: Iterable[Iterable[str]], key: str | None = None) -> Chosen:
    """Chooses the tensors of a network in a file.

    Args:
        weights: the whole file.
        vocabularies: the names that the network's tensors may have, a list per naming scheme.
        key: the key or prefix of the network in the file; None: whatever fits.

    Raises:
        FormatError: the file has nothing under `key`.
        AmbiguousError: it has several networks that fit, and nothing says which one to use.
    """
    if not weights.tensors:
        return Chosen(weights)  # variables without names
    names = _clean_names([*weights.tensors, *weights.damaged])
    if key:
        names = _under(names, key)
    vocabulary, found = _find(names, [frozenset(words) for words in vocabularies])
    if not found and weights.program is not None:
        return Chosen(weights)  # its tensors have the program's names
    if not found:
        prefix = f"{key}." if key else _usual_prefix(names)
        return _part(weights, names, prefix, (), {}, {weights.origins.get(names[name], "") for name in names})
    prefix, others = _first(found, weights, names)
    moved = _moved(sorted(vocabulary - found[prefix]), names, prefix, others) if prefix else {}
    origins = {weights.origins.get(names[prefix + word], "") for word in found[prefix]}
    return _part(weights, names, prefix, others, moved, origins)


def _clean_names(names: Iterable[str]) -> dict[str, str]:
    """Names without wrapper modules -> names in the file. Names that would collide stay unchanged."""
    originals: dict[str, list[str]] = defaultdict(list)
    for name in names:
        originals[_WRAPPERS.sub("", name)].append(name)
    clean = {name: found[0] for name, found in originals.items() if len(found) == 1}
    return clean | {name: name for found in originals.values() if len(found) > 1 for name in found}


def _under(names: Mapping[str, str], key: str) -> dict[str, str]:
    """The names that start with `key`."""
    found = {name: original for name, original in names.items() if f"{name}.".startswith(f"{key}.")}
    found = found or {original: original for original in names.values() if original.startswith(f"{key}.")}
    if not found:
        there = dict.fromkeys(name.partition(".")[0] for name in names if "." in name)
        raise FormatError(f"has nothing under {cut(key, 80)!r}; its keys: {cut(', '.join(there), 200) or 'none'}")
    return found


def _find(names: Mapping[str, str], vocabularies: list[frozenset[str]]) -> tuple[frozenset[str], dict[str, set[str]]]:
    """The vocabulary that the file uses, and its words under each prefix with at least half of them."""
    best: tuple[frozenset[str], dict[str, set[str]]] = frozenset(), {}
    most = 0
    for vocabulary in vocabularies:
        found: dict[str, set[str]] = defaultdict(set)
        for name in names:
            start = 0
            while start >= 0:
                if (word := name[start:]) in vocabulary:
                    found[name[:start]].add(word)
                start = name.find(".", start) + 1 or -1
        largest = max(map(len, found.values()), default=0)
        if largest > most and 2 * largest >= len(vocabulary):
            most = largest
            best = vocabulary, {prefix: words for prefix, words in found.items() if 2 * len(words) >= len(vocabulary)}
    return best


def _first(found: Mapping[str, set[str]], weights: Weights, names: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Of the prefixes with most words, the one to use, and the others.

    Raises:
        AmbiguousError: several are equally good.
    """
    most = max(map(len, found.values()))
    whole = [prefix for prefix, words in found.items() if len(words) == most]

    def rank(prefix: str) -> int:
        slower = _SLOWER & set(re.split(r"[\W_]+", prefix.lower()))
        return 0 if not prefix else 2 if slower else 1

    def tensors(prefix: str) -> list[Tensor | None]:
        return [weights.tensors.get(names[prefix + word]) for word in sorted(found[prefix])]

    first = sorted(whole, key=rank)[0]
    equal = [prefix for prefix in whole if rank(prefix) == rank(first)]
    different = [first, *(prefix for prefix in equal if prefix != first and not _same(tensors(prefix), tensors(first)))]
    if len(different) > 1:
        raise AmbiguousError(
            f"holds several networks that fit: {cut(', '.join(p.removesuffix('.') for p in different), 200)}"
        )
    return first, tuple(prefix for prefix in found if prefix != first and prefix not in equal)


def _same(some: list[Tensor | None], others: list[Tensor | None]) -> bool:
    """Whether two names stand for the same tensors."""
    return len(some) == len(others) and all(
        a is not None and b is not None and a.data_ptr() == b.data_ptr() for a, b in zip(some, others, strict=True)
    )


def _moved(missing: Iterable[str], names: Mapping[str, str], prefix: str, others: tuple[str, ...]) -> dict[str, str]:
    """Words that are missing under the prefix -> the only name in the file that ends with them, such as head.fc.weight.

    Of several such names, the one that shares most with the prefix is used.
    """
    parts = prefix.split(".")

    def shared(name: str) -> int:
        count = 0
        for part, other in zip(parts, name.split("."), strict=False):
            if part != other:
                break
            count += 1
        return count

    ends = {word: f".{word}" for word in missing}
    moved = {}
    for word, end in ends.items():
        ending = [name for name in names if name.endswith(end) and not name.startswith((prefix, *others))]
        most = max(map(shared, ending), default=0)
        nearest = [name for name in ending if shared(name) == most]
        if len(nearest) == 1:
            moved[word] = nearest[0]
    return moved


def _usual_prefix(names: Mapping[str, str]) -> str:
    """The usual keys before the names that do not fit, to name them in messages."""
    prefix = ""
    while key := next(
        (k for k in (*USUAL_KEYS, *_AVERAGES) if any(n.startswith(f"{prefix}{k}.") for n in names)), None
    ):
        prefix += f"{key}."
    return prefix


def _part(
    weights: Weights,
    names: Mapping[str, str],
    prefix: str,
    others: tuple[str, ...],
    moved: Mapping[str, str],
    origins: set[str],
) -> Chosen:
    """The tensors under a prefix, together with those that moved; the rest is `outside`.

    Args:
        origins: the keys of the mappings that hold fitting tensors; other mappings are not the network's.
    """
    own: dict[str, str] = {}
    outside = []
    kept = set(moved.values())
    for name, original in names.items():
        if name in kept or (others and name.startswith(others)):
            continue
        if name.startswith(prefix) and weights.origins.get(original, "") in origins:
            own[name.removeprefix(prefix)] = original
        elif not _OF_TRAINING.match(name):
            outside.append(name)
    own |= {word: names[name] for word, name in moved.items()}
    part = replace(
        weights,
        tensors={name: weights.tensors[original] for name, original in own.items() if original in weights.tensors},
        damaged={name: weights.damaged[original] for name, original in own.items() if original in weights.damaged},
        skipped=weights.skipped + sum(weights.others.get(origin, 0) for origin in origins),
    )
    return Chosen(part, prefix, tuple(other.removesuffix(".") for other in others), moved, tuple(outside))
