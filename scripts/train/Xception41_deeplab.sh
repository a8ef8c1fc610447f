#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=Xception41_deeplab \
    --batch_size=256 --num_epochs=120 --lr_strategy=cosine_decay --lr=0.045 --l2_decay=1e-4 \
    --image_shape 3 299 299 --resize_short_size=320 "$@"
