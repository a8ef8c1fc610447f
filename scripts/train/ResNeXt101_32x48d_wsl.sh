#!/usr/bin/env bash
# The published weights saw 940 million tagged photographs before ImageNet; from ImageNet alone expect less.
exec bash "$(dirname "$0")/../launch.sh" --model=ResNeXt101_32x48d_wsl \
    --batch_size=256 --num_epochs=120 --lr_strategy=piecewise_decay --lr=0.1 --l2_decay=1e-4 "$@"
