#!/usr/bin/env bash
# scikit-learn's handwritten digits, prepared by data/digits/prepare.py: seconds an epoch on a laptop's processor.
# The strokes reach the border: mild crops in training, and none in validation.
exec bash "$(dirname "$0")/../launch.sh" --model=MobileNetV1_x0_25 \
    --data_dir=./data/digits/ --class_dim=10 \
    --batch_size=32 --test_batch_size=64 --num_epochs=24 --lr_strategy=cosine_decay --lr=0.1 --l2_decay=5e-4 \
    --image_shape 3 64 64 --resize_short_size=64 --lower_scale=0.75 --lower_ratio=0.85 --upper_ratio=1.18 \
    --reader_thread=2 \
    --use_label_smoothing=True "$@"
