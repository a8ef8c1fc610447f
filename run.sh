#!/usr/bin/env bash
# Sets up the environment, then runs the project's scripts. `bash run.sh` prints the usage.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as `sh run.sh`
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
usage: bash run.sh COMMAND [arguments]

  setup                 install the packages for the commands below (which also do so themselves when needed)
  demo                  train, evaluate, classify and export on handwritten digits: two minutes on two cores
  train NAME [flags]    train with the recipe scripts/train/NAME.sh, such as ResNet50_vd; your flags override it
  eval [flags]          eval.py: accuracy of weights
  infer [flags]         infer.py: classify images, or export a network
  predict [flags]       predict.py: classify images with an exported network
  verify NAME [...]     fetch published weights, evaluate them on data/ILSVRC2012, compare; all: the whole zoo
  serve MODEL [flags]   predict.py --serve_port=8866: serve an exported network, NAME/model, over HTTP
  test [--all] [...]    run the tests; --all: every network, which takes hours; other arguments go to pytest
  bench [NAME [...]]    run all benchmarks, or benchmarks/NAME.py with its arguments
  prove [flags]         check a GPU machine in 14 minutes: tests, training, inference, CIFAR-10 to 95%; prove --help
  check-docs [FILE.md]  run the commands in the documentation, in several minutes; --parse only checks their flags

`bash run.sh eval --help` lists the flags of eval.py, and so on. Paths are relative to this folder.

Packages go to the active virtual environment, if there is one, or to .venv, which is created from python3 (3.10 to
3.13). PYTHON=/path/to/python selects another interpreter: if it belongs to a virtual environment, that is used;
otherwise it creates .venv. An installed torch of version 2.11 or newer is kept.
TEXT
}

say() {
    echo "setup: $*"
}

fail() {
    echo "run.sh: error: $1" >&2
    exit "${2:-1}"
}

# Prints a command as typed, then runs it.
show() {
    printf '+'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

is_virtual_environment() {
    "$1" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)'
}

# The version of an interpreter's torch, if it is new enough.
usable_torch() {
    "$1" -c '
import re
from importlib import metadata
version = next((d.version for d in metadata.distributions(name="torch")), "0.0")
if tuple(map(int, re.findall(r"\d+", version)[:2])) >= (2, 11):
    print(version)'
}

# The interpreter of a virtual environment, which is elsewhere on Windows (Git Bash).
interpreter() {
    if [ -x "$1/Scripts/python.exe" ]; then
        echo "$1/Scripts/python.exe"
    else
        echo "$1/bin/python"
    fi
}

# Sets `python`, the interpreter of the environment for packages. Creates .venv if it is needed and missing.
choose_environment() {
    local base=${PYTHON:-${VIRTUAL_ENV:+$(interpreter "$VIRTUAL_ENV")}} candidate
    if [ -n "$base" ]; then
        is_supported "$base" || fail "$base (from PYTHON or VIRTUAL_ENV) is not Python 3.10 to 3.13"
        if is_virtual_environment "$base"; then
            python=$base
            return
        fi
    fi

    python=$(interpreter .venv)
    if [ -x "$python" ]; then
        if [ -n "$base" ] && [ "$("$base" -V)" != "$("$python" -V)" ]; then
            fail ".venv has $("$python" -V), but PYTHON=$base is $("$base" -V): remove .venv to switch"
        fi
        return
    fi
    for candidate in ${base:+"$base"} python3 python3.13 python3.12 python3.11 python3.10 python; do
        if is_supported "$candidate"; then
            base=$candidate
            break
        fi
    done
    [ -n "$base" ] || fail "no Python 3.10 to 3.13 was found: give one with PYTHON=/path/to/python"
    local options=()
    if [ -n "$(usable_torch "$base")" ]; then
        options=(--system-site-packages)
    fi
    say "creating .venv with $("$base" -V) ${options[*]-}"
    if ! "$base" -m venv ${options[@]+"${options[@]}"} .venv; then
        rm -rf .venv
        fail "$base could not create .venv (on Debian and Ubuntu: apt-get install python3-venv)"
    fi
    python=$(interpreter .venv)
}

# The requirement files as one, with the environment's torch instead of ours.
requirements() {
    local torch
    torch=$(usable_torch "$python")
    sed -e '/^-r/d' ${torch:+-e "s/^torch==.*/torch==$torch/" -e "s/^torchvision==.*/torchvision/"} \
        requirements.txt requirements-dev.txt
}

install() {
    "$python" -m pip install --disable-pip-version-check "$@"
}

# setup [quietly]: installs the requirement files; a stamp in the environment marks that this is done.
setup() {
    choose_environment
    local prefix stamp wanted found list
    prefix=$("$python" -c 'import sys; print(sys.prefix)')
    stamp=$prefix/.requirements
    wanted="$("$python" -V) $(cat requirements.txt requirements-dev.txt | cksum)"
    found=$(cat "$stamp" 2>/dev/null || true)
    if [ "$found" = "$wanted" ]; then
        [ "${1:-}" = quietly ] || say "$prefix is up to date"
        return
    fi
    if [ "$found" = "$wanted, incomplete" ] && [ "${1:-}" = quietly ]; then
        return
    fi

    say "installing requirements.txt and requirements-dev.txt in $prefix (several minutes the first time)"
    list=$(mktemp)
    requirements >"$list"
    if ! install -r "$list"; then
        # Without a package index, the installed packages may suffice.
        "$python" -c 'import cv2, numpy, PIL, torch, tqdm' 2>/dev/null || fail "the packages could not be installed"
        say "not everything could be installed, see above; continuing with the packages in $prefix"
        wanted="$wanted, incomplete"
    fi
    rm -f "$list"
    if ! "$python" -c 'import cv2' 2>/dev/null; then
        say "OpenCV lacks a system library (usually libGL.so.1): installing the headless build, which does not need it"
        "$python" -m pip uninstall --yes opencv-python opencv-python-headless
        install "$(sed -n 's/^opencv-python/&-headless/p' requirements.txt)"
    fi
    echo "$wanted" >"$stamp"
    say "ready: $("$python" -V), torch $(usable_torch "$python") in $prefix"
}

demo() {
    local name=MobileNetV1_x0_25 output=output/demo
    local network=(--model="$name" --class_dim=10 --image_shape 3 64 64 --resize_short_size=64)
    local weights=$output/$name/best_model names=data/digits/label_names.txt

    # There is too little work here for threads: they would wait for each other, and for the reader.
    export OMP_NUM_THREADS=1

    show "$python" data/digits/prepare.py
    PYTHON=$python bash scripts/train/digits.sh --model_save_dir="$output" --random_seed=0
    show "$python" eval.py "${network[@]}" --pretrained_model="$weights" --data_dir=data/digits/ \
        --save_json_path="$output/eval.json"
    show "$python" infer.py "${network[@]}" --pretrained_model="$weights" --data_dir=data/digits/samples/ \
        --class_map_path="$names" --save_json_path="$output/infer.json"
    show "$python" infer.py "${network[@]}" --pretrained_model="$weights" --class_map_path="$names" --save_inference=True
    show "$python" predict.py --model_file="$name/model" --params_file="$name/params" --image_path=data/digits/samples/

    cat <<TEXT

The demo is done, in $SECONDS seconds.
  accuracy         $(cat "$output/eval.json")
  checkpoint       $weights
  curves           $output/$name/curves.png
  exported model   $name/model and $name/params, for predict.py

Next
  bash run.sh train digits --model=ResNet18_vd
      another network; any flag of train.py works
  bash run.sh train ResNet50_vd --data_dir=/path/to/data --class_dim=2 --batch_size=32 --lr=0.0125
      a recipe from scripts/train/ on your own images, here with two classes
  bash run.sh infer --help
      the flags of a script
TEXT
}

train() {
    local name=${1:-}
    [ -n "$name" ] || fail "train: give a recipe, such as ResNet50_vd: see scripts/train/" 2
    if [ ! -f "scripts/train/$name.sh" ]; then
        local recipe hint=""
        shopt -s nocasematch
        for recipe in scripts/train/*.sh; do
            recipe=${recipe##*/} recipe=${recipe%.sh}
            [[ ${recipe//[_-]/} != "${name//[_-]/}" ]] || hint=": did you mean $recipe?"
        done
        fail "train: there is no recipe scripts/train/$name.sh$hint" 2
    fi
    shift
    setup quietly
    PYTHON=$python exec bash "scripts/train/$name.sh" "$@"
}

serve() {
    local model=${1:-}
    [[ -n "$model" && "$model" != -* ]] || fail "serve: give an exported network, such as ResNet50_vd/model" 2
    shift
    setup quietly
    if ! "$python" -c 'import starlette, uvicorn, python_multipart, prometheus_client' 2>/dev/null; then
        install -r requirements-serve.txt || fail "the packages of requirements-serve.txt could not be installed"
    fi
    exec "$python" predict.py --model_file="$model" --serve_port=8866 "$@"
}

bench() {
    local file status=0
    if [ $# -gt 0 ]; then
        file=benchmarks/$1.py
        [ -f "$file" ] || fail "bench: there is no $file" 2
        shift
        exec "$python" "$file" "$@"
    fi
    for file in benchmarks/*.py; do
        show "$python" "$file" || status=1
    done
    return "$status"
}

# Whether an interpreter has all packages for training and inference, as on some GPU machines.
brings_all() {
    is_supported "$1" && [ -n "$(usable_torch "$1")" ] &&
        "$1" -c 'import torchvision, cv2, numpy, PIL, tqdm, safetensors, yaml, filelock' 2>/dev/null
}

prove() {
    python=${PYTHON:-${VIRTUAL_ENV:+$(interpreter "$VIRTUAL_ENV")}}
    if [ -z "$python" ] && [ ! -x "$(interpreter .venv)" ]; then
        python=python3
    fi
    if [ -z "$python" ] || ! brings_all "$python"; then
        setup quietly
    fi
    exec "$python" -m benchmarks.prove "$@"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
    setup)
        setup
        ;;
    demo)
        setup quietly
        demo
        ;;
    train)
        train "$@"
        ;;
    eval | infer | predict)
        setup quietly
        exec "$python" "$command.py" "$@"
        ;;
    verify)
        setup quietly
        exec "$python" utils/verify.py "$@"
        ;;
    serve)
        serve "$@"
        ;;
    test)
        setup quietly
        exec "$python" -m pytest --numprocesses=auto --maxprocesses=4 "$@"
        ;;
    bench)
        setup quietly
        bench "$@"
        ;;
    prove)
        prove "$@"
        ;;
    check-docs)
        setup quietly
        exec "$python" docs/check.py "$@"
        ;;
    -h | --help | help)
        usage
        ;;
    *)
        [ -z "$command" ] || echo "run.sh: error: unknown command $command" >&2
        usage >&2
        exit 2
        ;;
esac
