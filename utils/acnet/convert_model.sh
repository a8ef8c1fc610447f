#!/usr/bin/env bash
# Fuses the weights of an ACNet as trained into those of its deploy form. Set PYTHON to name the interpreter.
set -euo pipefail

if [ $# -lt 3 ] || [ $# -gt 4 ]; then
    cat >&2 <<'TEXT'
usage: bash utils/acnet/convert_model.sh MODEL INPUT OUTPUT [CLASS_DIM]

  MODEL      network, such as ResNet50_ACNet
  INPUT      its weights as trained: a checkpoint, a folder of variables, a .tar, ...
  OUTPUT     what to write: a new folder of variables, or a file NAME.tar, NAME.pth or NAME.safetensors
  CLASS_DIM  number of classes (default: 1000)
TEXT
    exit 2
fi

exec "${PYTHON:-python}" "$(dirname "$0")/weights_aggregator.py" \
    --model="$1" --input="$2" --output="$3" --class_dim="${4:-1000}"
