#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=RepVGG_B3 \
    --batch_size=256 --test_batch_size=256 --num_epochs=200 \
    --lr_strategy=cosine_decay_warmup --lr=0.1 --warm_up_epochs=5 --l2_decay=1e-4 \
    --use_aa=True --use_mixup=True --mixup_alpha=0.2 \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
