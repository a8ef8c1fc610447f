"""Knowledge distillation: a student learns from a teacher, which may learn too (deep mutual learning)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.network import Network, main_output
from utils.training.distill_terms import OF_BOTH, OF_LABELS, OF_LOGITS, Term
from utils.training.feature_losses import distance
from utils.training.feature_terms import feature_losses, looks_at_layers
from utils.training.logit_losses import mutual_loss
from utils.training.loss import Criterion, Targets, classification_loss, labels_loss, loss_of_outputs

Outputs = Tensor | tuple[Tensor, ...]


class Distillation(nn.Module):
    """A student, its teacher and the losses.

    Args:
        student: the network that is trained.
        teacher: in evaluation mode and without gradients if fixed; else it is trained too.
        terms: the losses.
        smoothing: default label smoothing of ce and teacher_ce.
        label_weights: for images with several labels, as in `labels_loss`; None: 1.
        image_size: height and width of the images, for losses between layers.
        hard_loss: the loss of ce and teacher_ce.

    Attributes:
        teacher_learns: whether the teacher is trained.
        parts: losses between layers, by their index among the terms; some have trainable parameters.

    Raises:
        FlagError: a layer does not exist, or compared layers do not match.
    """

    teacher: Network

    def __init__(
        self,
        student: Network,
        teacher: Network,
        terms: tuple[Term, ...],
        smoothing: float = 0.0,
        label_weights: Tensor | None = None,
        image_size: tuple[int, int] = (224, 224),
        hard_loss: Criterion = classification_loss,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher_learns = any(parameter.requires_grad for parameter in teacher.parameters())
        if self.teacher_learns:
            self.teacher = teacher
        else:
            vars(self)["teacher"] = teacher  # a fixed teacher is not part of the module
        self.terms = terms
        self.smoothing = smoothing
        self.label_weights = label_weights
        self.hard_loss = hard_loss
        self._taps, self.parts = None, nn.ModuleDict()
        if any(map(looks_at_layers, terms)):
            self._taps, self.parts = feature_losses(student, teacher, terms, image_size)

    def learners(self) -> dict[str, nn.Module]:
        """The modules trained along with the student."""
        return {"teacher": self.teacher, "losses": self.parts} if self.teacher_learns else {"losses": self.parts}

    def load_losses(self, state: dict[str, Tensor]) -> None:
        """Restores the losses' parameters.

        Raises:
            ValueError: the parameters are for other losses.
        """
        own = self.parts.state_dict()
        if {name: tensor.shape for name, tensor in own.items()} != {
            name: tensor.shape for name, tensor in state.items()
        }:
            raise ValueError("the parameters of its --distill_loss had other shapes")
        self.parts.load_state_dict(state)

    def forward(self, images: Tensor, targets: Targets) -> tuple[Tensor, Outputs]:
        """The loss of a batch (N, 3, H, W), and the student's logits."""
        if self._taps is None:
            outputs = self.student(images)
            return self.loss(outputs, self._taught(images), targets), outputs
        with self._taps[0].listening() as mine:
            outputs = self.student(images)
        with self._taps[1].listening() as theirs:
            teacher = self._taught(images)
        return self.loss(outputs, teacher, targets, mine, theirs), outputs

    def _taught(self, images: Tensor) -> Outputs:
        with torch.set_grad_enabled(self.teacher_learns and torch.is_grad_enabled()):
            return self.teacher(images)

    def loss(
        self,
        student: Outputs,
        teacher: Outputs,
        targets: Targets,
        mine: dict[str, Tensor] | None = None,
        theirs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The loss, from both networks' logits (N, classes), the targets, and outputs of both networks' layers.

        The student's auxiliary classifiers learn from the teacher too.
        """
        losses = []
        for number, term in enumerate(self.terms):
            if looks_at_layers(term):
                loss = self.parts[str(number)](mine, theirs)
            else:
                loss = self._loss(term, student, teacher, targets)
            losses.append(term.weight * loss)
        return torch.stack(losses).sum()

    def _loss(self, term: Term, student: Outputs, teacher: Outputs, targets: Targets) -> Tensor:
        """A loss of logits."""
        options = dict(term.options)
        weights = self.label_weights if options.pop("weight_ratio", False) else None
        if term.name.startswith("teacher_"):
            student = teacher  # on hard labels
        if term.name.endswith("ce") and term.name != "soft_ce":
            return self.hard_loss(student, targets, options.get("epsilon", self.smoothing))
        if term.name.endswith("multi_label"):
            return labels_loss(student, targets, 0.0, weights, options.get("sum", False))
        taught = main_output(teacher)
        if term.name not in OF_BOTH:
            taught = taught.detach()
        if term.name == "dml":
            each = None if weights is None else torch.where(targets.labels > 0, weights[1], weights[0])
            sigmoid, summed = options.get("act", False), options.get("sum", False)
            return loss_of_outputs(lambda logits: mutual_loss(logits, taught, sigmoid, summed, each), student)
        if term.name == "distance":
            return loss_of_outputs(lambda logits: distance(logits, taught, **options), student)
        if term.name in OF_LOGITS:
            function = OF_LOGITS[term.name][0]
            return loss_of_outputs(lambda logits: function(logits, taught, **options), student)
        function = OF_LABELS[term.name][0]

        def mixed(logits: Tensor) -> Tensor:
            loss = function(logits, taught, targets.labels, **options)
            if targets.mixed_labels is None:
                return loss
            other = function(logits, taught, targets.mixed_labels, **options)
            return targets.weight * loss + (1 - targets.weight) * other

        return loss_of_outputs(mixed, student)
