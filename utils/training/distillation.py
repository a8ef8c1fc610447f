"""Knowledge distillation: a teacher and its part of the loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from utils.training.loss import jensen_shannon_loss, loss_of_outputs, soft_label_loss


@dataclass
class Distillation:
    """A teacher network and how much of the loss is its.

    Attributes:
        teacher: in evaluation mode, without gradients.
        loss: "soft" for softened labels beside the hard ones, "js" for the Jensen-Shannon divergence alone (SSLD).
        temperature: softens both sides of the "soft" loss.
        weight: share of the "soft" loss; the hard labels have the rest.
    """

    teacher: nn.Module
    loss: str = "soft"
    temperature: float = 1.0
    weight: float = 0.5

    def __call__(self, hard: Tensor | None, student: Tensor | tuple[Tensor, ...], teacher: Tensor) -> Tensor:
        """The loss, from the hard labels' loss ("soft" only) and both networks' logits (N, classes).

        Side classifiers of the student learn from the teacher too.
        """
        if self.loss == "js":
            return loss_of_outputs(lambda logits: jensen_shannon_loss(logits, teacher), student)
        assert hard is not None, "the soft loss stands beside that of the hard labels"
        soft = loss_of_outputs(lambda logits: soft_label_loss(logits, teacher, self.temperature), student)
        return (1 - self.weight) * hard + self.weight * soft
