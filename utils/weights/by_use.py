"""Maps the parameters of an exported program to a network's by how they are used, if their names do not tell.

PaddlePaddle 2 and 3 call parameters conv2d_0.w_0, batch_norm2d_0.w_1, and so on. Both the program and the network
become a graph of parameters (`utils.weights.uses`): each has a role (running mean, bias, ...) and a shape, and follows
the parameters whose results it is applied to. Every parameter gets a colour, which is refined by its neighbours'
colours until nothing changes (the Weisfeiler-Leman method). Parameters of the same colour match; if several share a
colour, they match in the order of their use. Such a mapping is a proposal, which `utils.weights.from_program` checks.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from utils.weights.uses import ANSWER, Uses, Way

# The operations that count on the paths between parameters. Equal networks may use different operations: the fewer
# count, the more networks match.
_LEVELS: tuple[tuple[str, ...], ...] = (("activation", "place", "piece"), ("activation", "place"), ("place",), ())


def _seen(way: Way, level: tuple[str, ...]) -> Way:
    """A path reduced to the operations that count. Consecutive activations count once, as some are composed."""
    seen = [step for step in way if step.startswith(level)] if level else []
    return tuple(step for n, step in enumerate(seen) if step != "activation" or n == 0 or seen[n - 1] != "activation")


def _before(uses: Uses, level: tuple[str, ...]) -> dict[str, list[tuple[str, Way]]]:
    """The parameters before each, with the reduced paths to them.

    A swish composed of multiplication and sigmoid has a path with an activation and one without; they count as one.
    """
    found = {}
    for name, ways in uses.before.items():
        seen = {(other, _seen(way, level)) for other, way in ways if other in uses.kinds}
        found[name] = [(other, way) for other, way in seen if (other, (*way, "activation")) not in seen]
    return found


def _hash(value: Any) -> bytes:
    return hashlib.blake2b(repr(value).encode(), digest_size=12).digest()


def _coloured(uses: Uses, level: tuple[str, ...]) -> dict[str, bytes]:
    """The colour of every parameter, refined until no more can be told apart; in the order of use."""
    before = _before(uses, level)
    after: dict[str, list[tuple[str, Way]]] = defaultdict(list)
    for name, ways in before.items():
        for other, way in ways:
            after[other].append((name, way))
    colours = {name: _hash(kind) for name, kind in uses.kinds.items()}
    count = len(set(colours.values()))
    while True:
        colours = {
            name: _hash((
                colour,
                sorted((colours[other], way) for other, way in before.get(name, ())),
                sorted((colours[other], way) for other, way in after.get(name, ())),
            ))
            for name, colour in colours.items()
        }  # fmt: skip
        if len(set(colours.values())) <= count:
            return colours
        count = len(set(colours.values()))


def _of_any_classes(uses: Uses) -> Uses:
    """The same uses with a classifier (the last bias and weight) for any number of classes."""
    last = {name for name, _ in uses.before[ANSWER]}
    last |= {other for name in last if uses.kinds[name][0] == "bias" for other, _ in uses.before[name]}
    kinds = dict(uses.kinds)
    for name in last:
        role, sizes = kinds[name]
        if uses.classes in sizes:
            kinds[name] = role, ("classes", *sorted(size for size in sizes if size != uses.classes))
    return replace(uses, kinds=kinds)


def proposals(theirs: Uses, ours: Uses) -> Iterator[dict[str, str]]:
    """Mappings of the network's keys to the program's names, the most likely first; none if the networks differ.

    Args:
        theirs: the program's uses.
        ours: the network's uses.
    """
    if theirs.classes != ours.classes:
        theirs, ours = _of_any_classes(theirs), _of_any_classes(ours)
    if Counter(theirs.kinds.values()) != Counter(ours.kinds.values()):
        return
    known = []
    for level in _LEVELS:
        groups: list[dict[bytes, list[str]]] = []
        for uses in (theirs, ours):
            members: dict[bytes, list[str]] = defaultdict(list)
            for name, colour in _coloured(uses, level).items():
                members[colour].append(name)
            groups.append(members)
        names, keys = groups
        if {c: len(group) for c, group in names.items()} != {c: len(group) for c, group in keys.items()}:
            continue
        mapping = {key: name for c in keys for key, name in zip(keys[c], names[c], strict=True) if key != ANSWER}
        if mapping not in known:
            known.append(mapping)
            yield mapping
