#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=CLIP_vit_large_patch14_224 \
    --batch_size=1024 --test_batch_size=1024 --num_epochs=50 \
    --lr_strategy=cosine_decay_warmup --lr=3e-4 --min_lr=1e-6 --warm_up_epochs=10 \
    --optimizer=adamw --weight_decay=0.05 --layer_decay=0.6 \
    --use_ra=True --ra_magnitude=9 --random_erasing=0.25 \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
