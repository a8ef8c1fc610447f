#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=DARTS_6M \
    --batch_size=1024 --num_epochs=250 --lr_strategy=cosine_decay_warmup --lr=0.5 --l2_decay=3e-5 \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
