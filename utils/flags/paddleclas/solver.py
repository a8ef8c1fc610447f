"""The sections Optimizer, AMP and EMA as flags."""

from __future__ import annotations

from utils.flags.paddleclas.section import Section, boolean, choice, integer, list_of, number, positive, text

# Optimizer.name -> --optimizer.
_OPTIMIZERS = {
    "SGD": "sgd",
    "Momentum": "momentum",
    "Adam": "adam",
    "AdamW": "adamw",
    "AdamWDL": "adamw",
    "RMSProp": "rmsprop",
}
# Optimizer.lr.name -> --lr_strategy.
_STRATEGIES = {
    "Constant": "constant",
    "ConstLR": "constant",
    "Cosine": "cosine",
    "Linear": "linear",
    "Step": "step",
    "MultiStepDecay": "multi_step",
    "Piecewise": "piecewise",
    "ReduceOnPlateau": "reduce_on_plateau",
}


def read_optimizer(section: Section) -> None:
    """The flags of Optimizer."""
    name = section.take("name", text, "Momentum")
    kind = _OPTIMIZERS.get(name)
    if kind is None:
        section.refuse("name", f"{name} is not supported; choose from {', '.join(_OPTIMIZERS)}")
        return
    set_flag = section.reading.set
    set_flag("optimizer", kind)
    read_schedule(section.section("lr"))
    if kind in ("momentum", "rmsprop"):
        set_flag("momentum_rate", section.take("momentum", number, 0.9 if kind == "momentum" else 0.0))
    if kind == "momentum" and section.take("use_nesterov", boolean, False):
        set_flag("nesterov", True)
    if kind == "rmsprop":
        set_flag("rmsprop_rho", section.take("rho", number, 0.95))
        set_flag("optimizer_epsilon", section.take("epsilon", number, 1e-6))
    if kind in ("adam", "adamw"):
        betas = [section.take("beta1", number, 0.9), section.take("beta2", number, 0.999)]
        if betas != [0.9, 0.999]:
            set_flag("adam_betas", betas)
        if (epsilon := section.take("epsilon", number, 1e-8)) != 1e-8:
            set_flag("optimizer_epsilon", epsilon)
    _read_decay(section, kind)
    if (norm := section.take("clip_norm", number, None)) is not None:
        set_flag("clip_norm_each", norm)
    section.idle("multi_precision", "lazy_mode", "parameter_list", "scope")
    if kind == "adamw":
        # PaddleClas's AdamW accepts it and ignores it.
        section.idle("clip_grad")
    section.finish(("clip_norm", "regularizer", "weight_decay"))


def _read_decay(section: Section, kind: str) -> None:
    """The flags of weight decay and regularizers."""
    set_flag = section.reading.set
    names = section.take("no_weight_decay_name", text, "").split()
    without_vectors = section.take("one_dim_param_no_weight_decay", boolean, False)
    if kind == "adamw":
        decay = section.take("weight_decay", number, None)
        if decay is None:
            section.refuse("weight_decay", "is missing: PaddleClas's AdamW needs it")
        set_flag("weight_decay", decay or 0.0)
        set_flag("no_weight_decay", names or "none")
        if not without_vectors:
            set_flag("decay_vectors", True)
        if (factor := section.take("layerwise_decay", number, 1.0)) != 1.0:
            set_flag("layer_decay", factor)
        section.idle("n_layers", "filter_bias_and_bn")
        return
    if names:
        set_flag("no_weight_decay", names)
    if without_vectors:
        set_flag("decay_vectors", False)
    regularizer = section.section("regularizer")
    if regularizer.values:
        kind = regularizer.take("name", choice("l1", "l2"), "l2")
        set_flag(f"{kind}_decay", regularizer.take("coeff", number, 0.0))
        if kind == "l1":
            set_flag("l2_decay", 0.0)
            if names or without_vectors:
                regularizer.refuse(
                    "name", "L1 is supported only for all parameters, and this configuration exempts some"
                )
        regularizer.finish()
        section.idle("weight_decay")
    else:
        set_flag("l2_decay", section.take("weight_decay", number, 0.0))


def read_schedule(lr: Section) -> None:
    """The flags of Optimizer.lr."""
    set_flag = lr.reading.set
    name = lr.take("name", text, "Constant")
    strategy = _STRATEGIES.get(name)
    if strategy is None:
        lr.refuse("name", f"{name} is not supported; choose from {', '.join(_STRATEGIES)}")
        return
    set_flag("lr_strategy", strategy)
    values = lr.take("values", list_of(number), []) if strategy == "piecewise" else []
    base = values[0] if values else lr.take("learning_rate", number, None)
    if base is None:
        lr.refuse("learning_rate", "is missing")
        return
    set_flag("lr", base)
    _read_steps(lr, strategy, values)
    if strategy == "reduce_on_plateau":
        # PaddleClas passes this value to the schedule, which a warm-up replaces.
        lr.only("warmup_epoch", 0)
        lr.idle("warmup_start_lr", "verbose", "step_each_epoch", "epochs", "by_epoch", "last_epoch", "epsilon")
        lr.finish(("learning_rate",))
        return
    set_flag("warm_up_epochs", lr.take("warmup_epoch", number, 0.0))
    if start := lr.take("warmup_start_lr", number, 0.0):
        set_flag("warm_up_start_lr", start)
    if lr.take("by_epoch", boolean, False):
        set_flag("lr_by_epoch", True)
    lr.only("last_epoch", -1)
    lr.idle("verbose", "step_each_epoch", "epochs")
    if strategy == "piecewise":
        lr.idle("learning_rate")
    lr.finish(("learning_rate", "values", "warmup_epoch", "by_epoch"))


def _read_steps(lr: Section, strategy: str, values: list[float]) -> None:
    """A strategy's settings other than the rate and the warm-up."""
    set_flag = lr.reading.set
    if strategy == "cosine":
        set_flag("min_lr", lr.take("eta_min", number, 0.0))
    elif strategy == "linear":
        set_flag("min_lr", lr.take("end_lr", number, 0.0))
        if (power := lr.take("power", number, 1.0)) != 1.0:
            set_flag("lr_power", power)
        if lr.take("cycle", boolean, False):
            set_flag("lr_cycle", True)
    elif strategy == "reduce_on_plateau":
        set_flag("plateau_mode", lr.take("mode", choice("min", "max"), "min"))
        set_flag("decay_rate", lr.take("factor", number, 0.1))
        set_flag("plateau_patience", lr.take("patience", integer, 10))
        set_flag("plateau_threshold", lr.take("threshold", number, 1e-4))
        if lr.take("threshold_mode", choice("rel", "abs"), "rel") == "abs":
            set_flag("plateau_absolute", True)
        set_flag("plateau_cooldown", lr.take("cooldown", integer, 0))
        set_flag("min_lr", lr.take("min_lr", number, 0.0))
    elif strategy == "step":
        set_flag("decay_epochs", lr.take("step_size", number, 1.0))
        set_flag("decay_rate", lr.take("gamma", number, 0.1))
    elif strategy in ("multi_step", "piecewise"):
        key = "milestones" if strategy == "multi_step" else "decay_epochs"
        set_flag("step_epochs", lr.take(key, list_of(positive), []))
        if strategy == "multi_step":
            set_flag("decay_rate", lr.take("gamma", number, 0.1))
        else:
            set_flag("lr_values", values)
            if len(values) != len(lr.reading.flags["step_epochs"]) + 1:
                lr.refuse("values", "give one value more than decay_epochs")


def read_amp(section: Section) -> None:
    """The flags of AMP; without the section, no mixed precision."""
    level = section.take("level", choice("o1", "o2"), "o1")
    scale = section.take("scale_loss", number, 1.0)
    dynamic = section.take("use_dynamic_loss_scaling", boolean, False)
    in_evaluation = section.take("use_fp16_test", boolean, False)
    section.idle("use_promote")
    if section.values and section.take("use_amp", boolean, True):
        set_flag = section.reading.set
        set_flag("use_fp16", True)
        set_flag("scale_loss", scale)
        set_flag("use_dynamic_loss_scaling", dynamic)
        if level == "o2":
            section.reading.note(
                "AMP.level O2: weights are kept in float32 and used in float16, as in PaddleClas; norms and losses "
                "are computed in float32"
            )
        if in_evaluation:
            set_flag("use_fp16_test", True)
    section.asked.add("use_amp")
    section.finish()


def read_ema(section: Section) -> None:
    """The flags of EMA."""
    if section.values:
        section.reading.set("use_ema", True)
        section.reading.set("ema_decay", section.take("decay", number, 0.9999))
        section.reading.set("ema_warm_up", False)
    section.finish()
