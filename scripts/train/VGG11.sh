#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=VGG11 \
    --batch_size=512 --num_epochs=90 --lr_strategy=cosine_decay --lr=0.1 --l2_decay=2e-4 "$@"
