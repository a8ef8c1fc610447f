"""The layer losses of --distill_loss: finds the layers and builds the comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from models.activation_checkpointing import repeated_blocks
from models.network import Network
from utils.errors import FlagError
from utils.training.distill_terms import OF_FEATURES, Term
from utils.training.feature_losses import AttentionTransfer, Distance, MaskedGeneration, ProjectorEnsemble
from utils.training.taps import POOLED, LayerError, Taps, last_layer

_KINDS: dict[str, type[nn.Module]] = {
    "distance": Distance,
    "mgd": MaskedGeneration,
    "pefd": ProjectorEnsemble,
    "afd": AttentionTransfer,
}
# Options that name layers.
_PLACES = ("layer", "teacher_layer", "layers", "teacher_layers")


class FeatureLoss(nn.Module):
    """A loss between layers of a student and its teacher.

    Args:
        term: of --distill_loss.
        layers: the student's and the teacher's.
        shapes: output shapes by layer.

    Raises:
        ValueError: the compared layers do not match.
    """

    def __init__(
        self, term: Term, layers: tuple[list[str], list[str]], shapes: Sequence[Mapping[str, tuple[int, ...]]]
    ) -> None:
        super().__init__()
        self._layers = layers
        self._one = term.name != "afd"
        options = {name: value for name, value in term.options.items() if name not in _PLACES}
        self.loss = _KINDS[term.name](*self._taken(*shapes), **options)

    def _taken(self, mine: Mapping, theirs: Mapping) -> tuple:
        """The values of its layers, as a list or a single one."""
        pair = [[found[name] for name in names] for found, names in zip((mine, theirs), self._layers, strict=True)]
        return tuple(found[0] for found in pair) if self._one else tuple(pair)

    def forward(self, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
        """The loss, from outputs of the student's and the teacher's layers."""
        return self.loss(*self._taken(mine, theirs))


def looks_at_layers(term: Term) -> bool:
    """Whether a term compares layers rather than logits."""
    return term.name in OF_FEATURES and not (term.name == "distance" and "layer" not in term.options)


def layers_of(term: Term, network: Network, of_teacher: bool) -> list[str]:
    """The layers of a network that a term uses.

    Raises:
        LayerError: none is named, and the network has no default.
    """
    options = term.options
    if term.name == "afd":
        named = options.get("teacher_layers" if of_teacher else "layers")
        if named is None:
            blocks = set(repeated_blocks(network))
            named = [path for path, module in network.named_modules() if module in blocks]
        if not named:
            raise LayerError(f"{type(network).__name__} has no repeated blocks to use as default: name the layers")
        return named
    named = options.get("teacher_layer", options.get("layer")) if of_teacher else options.get("layer")
    return [named or (POOLED if term.name == "pefd" else last_layer(network))]


def feature_losses(
    student: Network, teacher: Network, terms: Sequence[Term], image_size: tuple[int, int]
) -> tuple[tuple[Taps, Taps], nn.ModuleDict]:
    """Hooks that record the layers' outputs in both networks, and the layer losses by their index among the terms.

    Raises:
        FlagError: a layer does not exist, or compared layers do not match.
    """
    taps = Taps(student), Taps(teacher)
    layers = {}
    losses = nn.ModuleDict()
    what = ""
    try:
        for number, term in enumerate(terms):
            if looks_at_layers(term):
                what = f"{term.name}: "
                layers[number] = layers_of(term, student, of_teacher=False), layers_of(term, teacher, of_teacher=True)
                for own, names in zip(taps, layers[number], strict=True):
                    own.catch(names)
        what = ""
        shapes = [own.output_shapes(*image_size) for own in taps]
        for number, pair in layers.items():
            what = f"{terms[number].name}: "
            losses[str(number)] = FeatureLoss(terms[number], pair, shapes)
    except ValueError as error:  # a LayerError among them
        raise FlagError(f"--distill_loss: {what}{error}") from None
    return taps, losses
