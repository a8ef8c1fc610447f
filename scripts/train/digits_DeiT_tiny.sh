#!/usr/bin/env bash
# A transformer on the digits of digits.sh, prepared by data/digits/prepare.py: 16 patches an image.
exec bash "$(dirname "$0")/../launch.sh" --model=DeiT_tiny_patch16_224 \
    --data_dir=./data/digits/ --class_dim=10 \
    --batch_size=64 --test_batch_size=64 --num_epochs=20 \
    --lr_strategy=cosine_decay_warmup --lr=1e-3 --min_lr=1e-5 --warm_up_epochs=2 \
    --optimizer=adamw --weight_decay=0.05 --clip_norm=1.0 --drop_path=0.1 \
    --image_shape 3 64 64 --resize_short_size=64 --lower_scale=0.75 --lower_ratio=0.85 --upper_ratio=1.18 \
    --reader_thread=2 \
    --use_label_smoothing=True "$@"
