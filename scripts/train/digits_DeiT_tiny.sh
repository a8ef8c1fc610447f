#!/usr/bin/env bash
# A transformer on the digits of digits.sh, prepared by data/digits/prepare.py: four patches an image, many short steps,
# and of the regularization only what so small a set bears.
exec bash "$(dirname "$0")/../launch.sh" --model=DeiT_tiny_patch16_224 \
    --data_dir=./data/digits/ --class_dim=10 \
    --batch_size=32 --test_batch_size=64 --num_epochs=24 \
    --lr_strategy=cosine_decay_warmup --lr=5e-4 --min_lr=1e-5 --warm_up_epochs=2 \
    --optimizer=adamw --weight_decay=0.05 --clip_norm=1.0 --drop_path=0 \
    --image_shape 3 32 32 --resize_short_size=32 --lower_scale=0.75 --lower_ratio=0.85 --upper_ratio=1.18 \
    --reader_thread=2 \
    --use_label_smoothing=True "$@"
