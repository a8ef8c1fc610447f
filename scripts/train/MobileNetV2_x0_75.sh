#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=MobileNetV2_x0_75 \
    --batch_size=256 --num_epochs=240 --lr_strategy=cosine_decay --lr=0.045 --l2_decay=4e-5 "$@"
