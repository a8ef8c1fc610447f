#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=MobileViTV3_x0_5 \
    --batch_size=1024 --test_batch_size=1024 --num_epochs=300 \
    --lr_strategy=cosine --lr=0.002 --min_lr=0.0002 --warm_up_epochs=16 --warm_up_start_lr=1e-06 \
    --optimizer=adamw --weight_decay=0.05 --no_weight_decay=none --clip_norm_each=10 \
    --train_transforms random_resized_crop:log_ratio:interpolation=bicubic:backend=pil flip \
        rand_augment_v3:ops=2:interpolation=bicubic \
        random_erasing:p=0.25:area=0.02/0.333333333333:ratio=0.3:log_ratio:mode=const:attempts=10 \
    --use_mixup=True --mixup_alpha=0.2 --mixup_prob=0.25 \
    --use_cutmix=True --cutmix_alpha=1 --cutmix_prob=0.25 --drop_last=False \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 \
    --use_fp16=True --scale_loss=65536 --use_dynamic_loss_scaling=True \
    --use_ema=True --ema_decay=0.9995 --ema_warm_up=False "$@"
