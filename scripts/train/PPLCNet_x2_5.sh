#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=PPLCNet_x2_5 \
    --batch_size=2048 --test_batch_size=256 --num_epochs=360 --lr_strategy=cosine_decay_warmup --lr=0.8 \
    --l2_decay=4e-5 --use_aa=True \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
