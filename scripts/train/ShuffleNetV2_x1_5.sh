#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=ShuffleNetV2_x1_5 \
    --batch_size=512 --num_epochs=240 --lr_strategy=cosine_decay_warmup --lr=0.25 --l2_decay=4e-5 \
    --lower_ratio=1.0 --upper_ratio=1.0 "$@"
