#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=ShuffleNetV2_x0_25 \
    --batch_size=1024 --num_epochs=240 --lr_strategy=cosine_decay_warmup --lr=0.5 --l2_decay=3e-5 \
    --lower_scale=0.64 --lower_ratio=0.8 --upper_ratio=1.2 "$@"
