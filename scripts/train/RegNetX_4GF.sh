#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=RegNetX_4GF \
    --batch_size=512 --test_batch_size=256 --num_epochs=100 --lr_strategy=cosine_decay_warmup --lr=0.4 \
    --l2_decay=5e-5 "$@"
