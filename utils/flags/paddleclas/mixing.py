"""PaddleClas's transforms of batches, mixup and CutMix, as flags."""

from __future__ import annotations

from utils.flags.paddleclas.section import Section, fraction, number


def read_mixing(section: Section) -> None:
    """The flags of `batch_transform_ops`: mixup and CutMix."""
    operations = list(section.entries("batch_transform_ops"))
    if len(operations) > 1:
        section.refuse("batch_transform_ops", "several operations in sequence are not supported: use OpSampler")
        return
    for name, options in operations:
        if name != "OpSampler":
            _mix(name, options, None)
            continue
        chosen = {inner: options.section(inner) for inner in options.values}
        shares = {inner: one.take("prob", fraction, 0.0) for inner, one in chosen.items()}
        if sum(shares.values()) > 1 + 1e-9:
            options.refuse(None, "the probabilities add up to more than 1")
        evenly = len(shares) == 2 and set(shares.values()) == {0.5}
        for inner, one in chosen.items():
            _mix(inner, one, None if evenly else shares[inner])


def _mix(name: str, options: Section, share: float | None) -> None:
    """The flags of one operation; `share` of the batches, None for all that the other operation leaves."""
    word = {"MixupOperator": "mixup", "CutmixOperator": "cutmix"}.get(name)
    if word is None:
        options.refuse(None, "the transform is not supported; choose from MixupOperator, CutmixOperator and OpSampler")
        return
    options.reading.set(f"use_{word}", True)
    options.reading.set(f"{word}_alpha", options.take("alpha", number, 1.0 if word == "mixup" else 0.2))
    options.idle("class_num")
    if share is not None:
        options.reading.set(f"{word}_prob", share)
    options.finish(("prob",))
