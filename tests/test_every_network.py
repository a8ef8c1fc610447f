"""Every public name: it builds with any number of classes, trains a step, and has features to export."""

import inspect

import pytest
import torch
from torch.nn import functional as F

import models
from utils import catalogue

CLASSES = 7
# Where no other size will do, or a larger one has to.
SIZES = {"alt_gvt": 224, "CSWinTransformer": 112, "AlexNet": 224, "GoogLeNet": 224, "Inception": 139}


def smallest_of_each_family():
    """The name with the fewest multiply-adds of each module in models/."""
    facts = catalogue.read()
    return [min(names, key=lambda name: facts[name].multiply_adds) for names in models.FAMILIES.values()]


def quick_size(name):
    return next((size for start, size in SIZES.items() if name.startswith(start)), 64)


def check(name, size):
    torch.manual_seed(0)
    constructor = inspect.signature(getattr(models, name)).parameters
    options = {"image_size": size} if "image_size" in constructor else {}
    model = models.build(name, class_dim=CLASSES, **options).train()
    images, labels = torch.randn(2, 3, size, size), torch.tensor([0, CLASSES - 1])
    outputs = model(images)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)  # GoogLeNet has three classifiers in training
    assert {tuple(logits.shape) for logits in outputs} == {(2, CLASSES)}
    sum(F.cross_entropy(logits, labels) for logits in outputs).backward()
    # Everything that is there is used, and learns.
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert [key for key, gradient in gradients.items() if gradient is None] == []
    assert [key for key, gradient in gradients.items() if not gradient.isfinite().all()] == []
    model.eval()
    with torch.no_grad():
        features, logits = model.forward_features(images), model(images)
    assert features.dim() == 2
    assert logits.shape == (2, CLASSES)
    assert features.isfinite().all()
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", smallest_of_each_family())
def test_a_member_of_each_family(name):
    check(name, quick_size(name))


@pytest.mark.full
@pytest.mark.parametrize("name", models.list_models())
def test_every_network_at_its_own_size(name):
    check(name, models.input_config(name).image_size)
