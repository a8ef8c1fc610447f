#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=RepVGG_B1 \
    --batch_size=256 --test_batch_size=256 --num_epochs=120 \
    --lr_strategy=cosine_decay_warmup --lr=0.1 --warm_up_epochs=0 --l2_decay=1e-4 "$@"
