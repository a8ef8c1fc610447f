#!/usr/bin/env bash
# FixRes (H. Touvron et al., 2019) only adapts a trained ResNeXt101_32x48d_wsl to 320 x 320: start from its weights,
# --pretrained_model=..., with a low --lr, such as 0.001, for a few epochs.
exec bash "$(dirname "$0")/../launch.sh" --model=Fix_ResNeXt101_32x48d_wsl \
    --batch_size=256 --num_epochs=120 --lr_strategy=piecewise_decay --lr=0.1 --l2_decay=1e-4 \
    --image_shape 3 320 320 --resize_short_size=320 "$@"
