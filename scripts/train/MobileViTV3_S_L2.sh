#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=MobileViTV3_S_L2 \
    --batch_size=384 --test_batch_size=384 --num_epochs=300 \
    --block_dropout=0.1 \
    --lr_strategy=cosine --lr=0.002 --min_lr=0.0002 --warm_up_epochs=1 --warm_up_start_lr=0.0002 \
    --optimizer=adamw --weight_decay=0.01 --no_weight_decay=none --decay_vectors=True \
    --multi_scale 256 160 192 224 288 320 \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 \
    --use_fp16=True --scale_loss=65536 --use_dynamic_loss_scaling=True \
    --use_ema=True --ema_decay=0.9995 --ema_warm_up=False "$@"
