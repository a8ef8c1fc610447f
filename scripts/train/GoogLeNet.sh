#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=GoogLeNet \
    --batch_size=256 --num_epochs=200 --lr_strategy=cosine_decay --lr=0.01 --l2_decay=1e-4 "$@"
