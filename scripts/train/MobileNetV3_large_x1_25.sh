#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=MobileNetV3_large_x1_25 \
    --batch_size=1024 --num_epochs=360 --lr_strategy=cosine_decay_warmup --lr=0.65 --l2_decay=4e-5 \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
