#!/usr/bin/env bash
# Downloads ImageNet (ILSVRC 2012, classification) into the folder of this script, checks, unpacks and lists it:
#
#   train/WNID/*.JPEG  train_list.txt   1,281,167 images
#   val/*.JPEG         val_list.txt     50,000
#
# The data are free for research after registering and accepting the terms at https://image-net.org. The script asks for
# your user name and access key (or password), or takes them from IMAGENET_USERNAME and IMAGENET_ACCESS_KEY. It uses
# files that you downloaded with a browser and put here. An interrupted run continues where it stopped. It needs 300 GB
# of disk; you may delete the three archives afterwards.
#   IMAGENET_URL   another place that serves the three archives
#   PYTHON         interpreter with scipy (default: python)
set -euo pipefail

case "${1:-}" in
"") ;;
-h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*)
    echo "download_imagenet2012.sh: error: unexpected argument $1: it takes none (see --help)" >&2
    exit 2
    ;;
esac

cd "$(dirname "$0")"

url=${IMAGENET_URL:-https://image-net.org/data/ILSVRC/2012}
python=${PYTHON:-python}

fail() {
    echo "download_imagenet2012.sh: error: $1" >&2
    exit 1
}

md5() {
    if command -v md5sum >/dev/null; then
        md5sum "$1" | cut -d ' ' -f 1
    else
        command md5 -q "$1" # macOS
    fi
}

ask_for_account() {
    if [ -z "${IMAGENET_USERNAME:-}" ] || [ -z "${IMAGENET_ACCESS_KEY:-}" ]; then
        [ -t 0 ] || fail "set IMAGENET_USERNAME and IMAGENET_ACCESS_KEY to your account at image-net.org"
        read -r -p "User name at image-net.org: " IMAGENET_USERNAME
        read -r -s -p "Access key or password: " IMAGENET_ACCESS_KEY
        echo
    fi
}

# fetch FILE MD5: downloads FILE unless it is here, and checks it once.
fetch() {
    local file=$1 sum=$2 account
    [ ! -e "$file.verified" ] || return 0
    if [ ! -e "$file" ]; then
        ask_for_account
        echo "downloading $file"
        account=$IMAGENET_USERNAME:$IMAGENET_ACCESS_KEY
        account=${account//\\/\\\\}
        # On standard input, so that process lists do not show the key.
        printf 'user = "%s"\n' "${account//\"/\\\"}" |
            curl --config - --fail --location --retry 5 --continue-at - --output "$file.part" "$url/$file" ||
            fail "$url/$file: download failed. Run again to continue, or download it with a browser to $PWD/"
        mv "$file.part" "$file"
    fi
    echo "checking $file"
    if [ "$(md5 "$file")" != "$sum" ]; then
        fail "$PWD/$file is damaged or a different file: remove it and run again"
    fi
    touch "$file.verified"
}

command -v curl >/dev/null || fail "curl is needed"
"$python" -c 'import scipy' 2>/dev/null || fail "$python has no scipy, which reads the class numbers: pip install scipy"

fetch ILSVRC2012_devkit_t12.tar.gz fa75699e90414af021442c21a62c3abf
fetch ILSVRC2012_img_val.tar 29b22e2961454d5413ddabcf34fc5622
fetch ILSVRC2012_img_train.tar 1d675b47d978889d74fa0da5fadfb00e
exec "$python" prepare.py
