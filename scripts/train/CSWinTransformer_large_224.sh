#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=CSWinTransformer_large_224 \
    --batch_size=256 --test_batch_size=256 --num_epochs=300 \
    --lr_strategy=cosine_decay_warmup --lr=2.5e-4 --min_lr=2.5e-6 --warm_up_epochs=20 \
    --optimizer=adamw --weight_decay=0.05 \
    --use_ra=True --ra_magnitude=9 --random_erasing=0.25 \
    --use_mixup=True --mixup_alpha=0.8 --use_cutmix=True --cutmix_alpha=1.0 \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
