#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=MobileNetV2_x0_25 \
    --batch_size=256 --num_epochs=240 --lr_strategy=cosine_decay --lr=0.1 --l2_decay=3e-5 \
    --lower_ratio=1.0 --upper_ratio=1.0 "$@"
