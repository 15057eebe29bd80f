#!/usr/bin/env bash
# Builds the wheel, installs it in bare environments, one for each row, uses it there, and prints a
# table, row by row.
#
# Usage: scripts/install_matrix.sh [ROW...]
# A row is a list of extras by commas; "-": none; "pinned": constraints.txt, as `make` installs;
# "sdist": the source archive without extras. By default there is a row for each.
# Variables: PYTHONS, interpreters ("python3.11 python3.12 python3.13"); SABOC_DATA_DIR, where TFDS
# data lies, else it is not tried; PIP_CONSTRAINT, a file of pip, e.g. with the release of PyTorch
# that `peers` and `all` shall take. Environments and logs are made anew in .cache/install (WORK
# names another folder); each environment is removed after its row.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD work=${WORK:-$PWD/.cache/install}
rm -rf "$work"
mkdir -p "$work/away"
work=$(cd "$work" && pwd)
read -ra pythons <<<"${PYTHONS:-python3.11 python3.12 python3.13}"
rows=("$@")
[ $# -gt 0 ] || rows=(- sdist pinned figures training parquet nats ray reference peers all)
quiet=(-m pip install --quiet --disable-pip-version-check)
small=(--dataset=digits --channels=2 --batch_size=6 --repeats=1 --num_archs=2 --scorers=ntk_score)
cell='|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_3x3~2|'

# What git holds, so that nothing that lies about gets into the archives.
git archive --prefix=source/ HEAD | tar -x -C "$work"
"${pythons[0]}" -m venv "$work/builder"
"$work/builder/bin/python" "${quiet[@]}" build
"$work/builder/bin/python" -m build --outdir "$work/dist" "$work/source" >"$work/build.log" 2>&1
wheel=$(ls "$work"/dist/*.whl) sdist=$(ls "$work"/dist/*.tar.gz)

# A kernel of a module of one's own, which no binary needs.
cat >"$work/own.py" <<'EOF'
import flax.linen as nn
import jax

import saboc_jax as sj


class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Conv(4, (3, 3))(x)).mean((1, 2)))


images = jax.random.normal(jax.random.key(0), (5, 8, 8, 3))
network = sj.from_module(Own(), Own().init(jax.random.key(1), images))
assert sj.empirical_ntk(network, images).shape == (5, 5)
EOF

# install DIRECTORY ROW
install() {
    case $2 in
        -) "$1/bin/python" "${quiet[@]}" "$wheel" ;;
        sdist) "$1/bin/python" "${quiet[@]}" "$sdist" ;;
        pinned)
            "$1/bin/python" "${quiet[@]}" --no-deps --require-hashes --requirement "$root/constraints.txt"
            "$1/bin/python" "${quiet[@]}" --no-deps "$wheel"
            ;;
        *) "$1/bin/python" "${quiet[@]}" "$wheel[$2]" ;;
    esac
}

# try LOG COMMAND...: its seconds, or what went wrong; run far from the source.
try() {
    local start=$SECONDS log=$1
    shift
    if (cd "$work/away" && "$@") >>"$log" 2>&1; then
        echo "$((SECONDS - start)) s"
    else
        echo "failed: $(tail -n 1 "$log" | cut -c -60 | tr '|' '/')"
    fi
}

# present DIRECTORY: which of the large frameworks are there.
present() {
    local found
    found=$(ls "$1" | grep -xE 'tensorflow|keras|ray|torch' | paste -sd ' ' -) || true
    echo "${found:-none}"
}

# names PATTERN COMMAND...: does a command end with an error that is the one wanted?
names() {
    local pattern=$1
    shift
    ! "$@" 2>said || return 1
    grep -q "$pattern" said
}

# use ROW NAME: whatever the row is for, by commands that need it.
use() {
    case $2 in
        help) "$saboc" --help ;;
        score) "$saboc" score "${small[@]}" --store="$kept.sqlite" ;;
        tfds) "$saboc" score "${small[@]}" --dataset=cifar10 --store="$kept.sqlite" ;;
        search)
            "$saboc" search --dataset=digits --channels=2 --repeats=1 --batch_size=8 \
                --searcher=random --max_evaluations=3 --workdir="$kept"
            ;;
        pictures) ls "$kept/cell.png" "$kept/trajectory.png" ;;
        own) "$venv/bin/python" "$work/own.py" ;;
        train)
            "$saboc" train --dataset=digits --recipe=tiny --epochs=1 --train_examples=64 \
                --channels=2 --workdir="$kept-train" --architecture="$cell"
            ;;
        parquet)
            "$saboc" score "${small[@]}" --scorers=params --store="$kept.sqlite" \
                --export="$kept.parquet"
            ;;
        nats) names "does not exist" "$saboc" import_nats_bench --source=none --out=none.csv ;;
        ray) "$saboc" score "${small[@]}" --executor=ray --num_workers=1 --store="$kept.sqlite" ;;
        reference)
            "$saboc" score "${small[@]}" --ntk_engine=neural_tangents --store="$kept.sqlite"
            ;;
        peers)
            "$saboc" benchmark --channels=2 --batch_size=4 --num_archs=1 --rounds=1 --nomemory \
                --contestants=one_backward,torch_step
            ;;
    esac
}

# uses ROW: names of what to try.
uses() {
    case $1 in
        figures) echo search pictures ;;
        training) echo train ;;
        parquet | nats | ray | reference | peers) echo "$1" ;;
        *) echo help score search own ${SABOC_DATA_DIR:+tfds} ;;
    esac
}

status=0
echo "| Python | extras | jax | packages | MB | install | tried | of TensorFlow, Keras, Ray, torch |"
echo "|---|---|---|---|---|---|---|---|"
for python in "${pythons[@]}"; do
    if ! name=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
        echo "| $python | no such interpreter |"
        status=1
        continue
    fi
    for row in "${rows[@]}"; do
        venv=$work/venv log=$work/$name-${row//,/-}.log
        saboc=$venv/bin/saboc kept=$work/away/$name-${row//,/-}
        echo "Python $name, $row: log in $log" >&2
        "$python" -m venv --clear "$venv"
        site=$(echo "$venv"/lib/python*/site-packages)
        bare=$(du -sm "$venv" | cut -f 1)  # pip is the tool and no part of what is measured
        installed=$(try "$log" install "$venv" "$row")
        size=$(($(du -sm "$venv" | cut -f 1) - bare))
        packages=$(find "$site" -maxdepth 1 -name '*.dist-info' | wc -l)
        jax=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("jax"))') || jax=-
        ours=$(ls "$site" | grep -E '^(saboc|experiments)' | grep -v dist-info | paste -sd ' ' -)
        there=$(present "$site") tried=
        for each in $(uses "$row"); do
            tried="$tried${tried:+, }$each $(try "$log" use "$row" "$each")"
        done
        [ "$ours" = saboc_jax ] || tried="$tried, failed: $ours at the top of site-packages"
        [[ $row != - || $there = none ]] || tried="$tried, failed: $there without being asked for"
        echo "| $name | $row | $jax | $packages | $size | $installed | $tried | $there |"
        case "$installed$tried" in *failed*) status=1 ;; esac
        rm -rf "$venv" "$kept"*
    done
done
exit "$status"
