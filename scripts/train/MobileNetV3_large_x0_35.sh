#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=MobileNetV3_large_x0_35 \
    --batch_size=4096 --num_epochs=360 --lr_strategy=cosine_decay_warmup --lr=2.6 --l2_decay=2e-5 \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
