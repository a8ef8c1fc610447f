#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=ResNet101_ACNet \
    --batch_size=256 --num_epochs=120 --lr_strategy=piecewise_decay --lr=0.1 --l2_decay=1e-4 "$@"
