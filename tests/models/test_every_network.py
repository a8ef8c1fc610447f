"""Every public name: it builds with any number of classes, trains a step, and has features to export."""

import inspect

import pytest
import torch
from torch.nn import functional as F

import models
from models import catalogue
from models.network import main_output

CLASSES = 7
# Networks that need a particular size, or a larger one.
SIZES = {"alt_gvt": 224, "CSWinTransformer": 112, "AlexNet": 224, "GoogLeNet": 224, "Inception": 139}


# Families whose smallest networks are too large for every run of the suite: only --all tests them.
HUGE_FAMILIES = {"resnext_wsl", "senet_vd", "vgg"}


def smallest_of_each_family():
    """The name with the fewest multiply-adds of each module in models/."""
    facts = catalogue.read()
    families = [names for family, names in models.FAMILIES.items() if family not in HUGE_FAMILIES]
    return [min(names, key=lambda name: facts[name].multiply_adds) for names in families]


def quick_size(name):
    return next((size for start, size in SIZES.items() if name.startswith(start)), 64)


def build(name, size):
    torch.manual_seed(0)
    constructor = inspect.signature(getattr(models, name)).parameters
    options = {"image_size": size} if "image_size" in constructor else {}
    return models.build(name, class_dim=CLASSES, **options).train()


def check(name, size):
    model = build(name, size)
    images, labels = torch.randn(2, 3, size, size), torch.tensor([0, CLASSES - 1])
    outputs = model(images)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)  # GoogLeNet has three classifiers in training
    assert {tuple(logits.shape) for logits in outputs} == {(2, CLASSES)}
    sum(F.cross_entropy(logits, labels) for logits in outputs).backward()
    # All parameters are used and learn.
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.requires_grad}
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
@pytest.mark.parametrize("name", smallest_of_each_family())
def test_a_member_of_each_family_is_one_graph(name):
    """Traces what --use_compile=True compiles, in mixed precision and channels_last, without the slow compilation."""
    torch._dynamo.reset()
    size = quick_size(name)
    model = build(name, size).to(memory_format=torch.channels_last)
    traced = torch.compile(model, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = traced(torch.randn(2, 3, size, size).to(memory_format=torch.channels_last))
    main_output(outputs).float().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.full
@pytest.mark.parametrize("name", models.list_models())
def test_every_network_at_its_own_size(name):
    check(name, models.input_config(name).image_size)
