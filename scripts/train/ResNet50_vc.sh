#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=ResNet50_vc \
    --batch_size=256 --num_epochs=200 --lr_strategy=cosine_decay --lr=0.1 --l2_decay=1e-4 "$@"
