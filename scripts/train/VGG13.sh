#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=VGG13 \
    --batch_size=256 --num_epochs=90 --lr_strategy=cosine_decay --lr=0.01 --l2_decay=3e-4 "$@"
