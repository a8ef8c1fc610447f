"""Loads weights from any kind of file into a network, and writes them.

`read_weights` recognizes a file's kind by its content and returns named tensors. `load_pretrained` finds out which
names the file uses for the network's tensors (PyTorch's, the published fluid ones, PaddleClas's or Caffe's), checks
that all of them fit, and copies them. `utils.weights.network` builds the network that flags ask for, and
`utils.weights.write` writes weights.
"""

from utils.weights.content import Weights
from utils.weights.files import read_weights
from utils.weights.loading import LoadReport, load_pretrained, load_weights
from utils.weights.misfit import OF_TEACHER, TO_RESUME, TO_TRAIN, TO_USE, Remedies
from utils.weights.notes import read_input_notes

__all__ = [
    "OF_TEACHER",
    "TO_RESUME",
    "TO_TRAIN",
    "TO_USE",
    "LoadReport",
    "Remedies",
    "Weights",
    "load_pretrained",
    "load_weights",
    "read_input_notes",
    "read_weights",
]
