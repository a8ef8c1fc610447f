#!/usr/bin/env bash
exec bash "$(dirname "$0")/../launch.sh" --model=SE_ResNeXt152_32x4d \
    --batch_size=400 --num_epochs=200 --lr_strategy=cosine_decay --lr=0.1 --l2_decay=1.5e-5 "$@"
