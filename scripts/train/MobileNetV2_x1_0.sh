#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=MobileNetV2_x1_0 \
    --batch_size=500 --num_epochs=240 --lr_strategy=cosine_decay --lr=0.1 --l2_decay=4e-5 "$@"
