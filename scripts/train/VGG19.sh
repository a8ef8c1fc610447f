#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=VGG19 \
    --batch_size=256 --num_epochs=150 --lr_strategy=cosine_decay --lr=0.01 --l2_decay=4e-4 "$@"
