#!/usr/bin/env bash
# Fewer reader workers per process, for several processes on one machine.
exec bash "$(dirname "$0")/../launch.sh" --model=ResNet50 \
    --batch_size=256 --num_epochs=120 --lr_strategy=piecewise_decay --lr=0.1 --l2_decay=1e-4 \
    --reader_thread=4 "$@"
