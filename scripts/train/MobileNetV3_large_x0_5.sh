#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=MobileNetV3_large_x0_5 \
    --batch_size=2048 --num_epochs=360 --lr_strategy=cosine_decay_warmup --lr=1.3 --l2_decay=2e-5 \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
