#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=MobileNetV3_small_x0_35 \
    --batch_size=4096 --num_epochs=360 --lr_strategy=cosine_decay_warmup --lr=2.6 --l2_decay=1e-5 "$@"
