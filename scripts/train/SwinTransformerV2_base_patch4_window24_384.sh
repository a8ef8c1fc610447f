#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=SwinTransformerV2_base_patch4_window24_384 \
    --batch_size=1024 --test_batch_size=1024 --num_epochs=300 \
    --lr_strategy=cosine_decay_warmup --lr=1e-3 --min_lr=1e-5 --warm_up_epochs=20 \
    --optimizer=adamw --weight_decay=0.05 \
    --use_ra=True --ra_magnitude=9 --random_erasing=0.25 \
    --use_mixup=True --mixup_alpha=0.8 --use_cutmix=True --cutmix_alpha=1.0 \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
