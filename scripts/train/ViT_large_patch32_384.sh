#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=ViT_large_patch32_384 \
    --batch_size=512 --test_batch_size=512 --num_epochs=120 \
    --lr_strategy=piecewise --lr=0.1 --step_epochs 30 60 90 --lr_values 0.1 0.01 0.001 0.0001 --warm_up_epochs=0 \
    --optimizer=momentum --momentum_rate=0.9 --l2_decay=0.0001 \
    --drop_last=False "$@"
