#!/usr/bin/env bash
# Starts train.py for a recipe: scripts/launch.sh FLAGS...   The last of two equal flags wins.
# It starts one process per visible GPU (see CUDA_VISIBLE_DEVICES).
#   DATA_DIR   dataset root, if the flags do not give one
#   PYTHON     interpreter (default: python of the active environment, else of .venv, else python)
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python}
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}" ] && [ -x .venv/bin/python ]; then
    python=.venv/bin/python
fi
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())' 2>/dev/null) || {
    echo "launch.sh: error: $python cannot import torch: run \`bash run.sh setup\` first" >&2
    exit 1
}
command=("$python")
if [ "$gpus" -gt 1 ]; then
    command+=(-m torch.distributed.run --standalone --nproc_per_node="$gpus")
fi
command+=(train.py ${DATA_DIR:+"--data_dir=$DATA_DIR"} "$@")

printf '+'
printf ' %q' "${command[@]}"
printf '\n'
exec "${command[@]}"
