#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=ResNeXt152_vd_64x4d \
    --batch_size=256 --num_epochs=200 --lr_strategy=cosine_decay --lr=0.1 --l2_decay=1e-4 \
    --use_mixup=True --use_label_smoothing=True --label_smoothing_epsilon=0.1 "$@"
