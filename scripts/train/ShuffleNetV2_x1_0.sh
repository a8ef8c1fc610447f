#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=ShuffleNetV2_x1_0 \
    --batch_size=1024 --num_epochs=240 --lr_strategy=cosine_decay_warmup --lr=0.5 --l2_decay=4e-5 "$@"
