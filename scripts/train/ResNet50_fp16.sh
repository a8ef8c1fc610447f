#!/usr/bin/env bash
# Mixed precision. With DALI installed, add --use_dali=True.
exec bash "$(dirname "$0")/../launch.sh" --model=ResNet50 \
    --batch_size=256 --lr_strategy=piecewise_decay --lr=0.1 \
    --reader_thread=10 --reader_buf_size=4000 \
    --use_fp16=True --scale_loss=128.0 --use_dynamic_loss_scaling=True --data_format=NHWC \
    --fuse_elewise_add_act_ops=True --fuse_bn_act_ops=True "$@"
