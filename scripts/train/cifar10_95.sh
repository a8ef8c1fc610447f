#!/usr/bin/env bash
# CIFAR-10 to 95% in minutes on one GPU; prepared by data/cifar10/prepare.py. What is done to the images is done at
# 32 x 32 pixels: padded by 4 and cropped, mirrored, a square of 8 x 8 hidden. Then they are enlarged: the network
# divides the resolution by 4 before its first block, which at 128 x 128 sees the 32 x 32 positions that a ResNet made
# for CIFAR sees.
exec bash "$(dirname "$0")/../launch.sh" --model=ResNet18_vd \
    --data_dir=./data/cifar10/ --class_dim=10 --random_seed=0 \
    --batch_size=512 --test_batch_size=1000 --num_epochs=40 --eval_interval=8 \
    --lr_strategy=cosine_decay_warmup --warm_up_epochs=5 --lr=0.4 --nesterov=True --l2_decay=5e-4 \
    --image_shape 3 128 128 --resize_short_size=128 --reader_thread=16 \
    --train_transforms "resize:size=32 pad:size=40 random_crop:size=32 flip cutout:length=8 resize:size=128" \
    --use_label_smoothing=True --label_smoothing_epsilon=0.1 \
    --use_fp16=True --scale_loss=1024 --data_format=NHWC "$@"
