#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=EfficientNetB0_small \
    --batch_size=512 --test_batch_size=128 --num_epochs=360 --lr_strategy=exponential_decay_warmup --lr=0.032 \
    --l2_decay=1e-5 \
    --resize_short_size=256 --interpolation=2 --use_aa=True \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 \
    --drop_connect_rate=0.1 --use_ema=True --ema_decay=0.9999 "$@"
