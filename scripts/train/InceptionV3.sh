#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=InceptionV3 \
    --batch_size=256 --num_epochs=200 --lr_strategy=cosine_decay --lr=0.045 --l2_decay=1e-4 \
    --image_shape 3 299 299 --resize_short_size=320 \
    --use_mixup=True --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
