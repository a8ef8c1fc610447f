#!/usr/bin/env bash
# CIFAR-10, prepared by data/cifar10/prepare.py. The network divides the resolution by 4 before its first block:
# at 128 x 128 its blocks see the 32 x 32 positions that a ResNet made for CIFAR sees.
exec bash "$(dirname "$0")/../launch.sh" --model=ResNet18_vd \
    --data_dir=./data/cifar10/ --class_dim=10 \
    --batch_size=256 --test_batch_size=512 --num_epochs=60 --lr_strategy=cosine_decay_warmup --lr=0.2 \
    --l2_decay=5e-4 \
    --image_shape 3 128 128 --resize_short_size=128 --lower_scale=0.4 \
    --use_mixup=True --mixup_alpha=0.2 --use_label_smoothing=True --label_smoothing_epsilon=0.1 \
    --use_fp16=True --scale_loss=1024 --data_format=NHWC "$@"
