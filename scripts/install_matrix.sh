#!/usr/bin/env bash
# Builds the wheel, installs it in bare environments, one for each row, uses it there, and prints a
# table, row by row.
#
# Usage: scripts/install_matrix.sh [ROW...]
# A row is a list of extras by commas; "-": none; "pinned": constraints.txt, as `make` installs;
# "sdist": the source archive without extras. The default is "- figures training parquet,nats ray
# reference all pinned sdist".
# Variables: PYTHONS, interpreters ("python3.11 python3.12 python3.13"); SABOC_DATA_DIR, where TFDS
# data lies, else that column is left out; PIP_CONSTRAINT, a file of pip, e.g. with the release of
# PyTorch that `peers` and `all` shall take. Environments and logs are made anew in .cache/install
# (WORK names another folder); each environment is removed after its row.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD work=${WORK:-$PWD/.cache/install}
rm -rf "$work"
mkdir -p "$work/away"
work=$(cd "$work" && pwd)
read -ra pythons <<<"${PYTHONS:-python3.11 python3.12 python3.13}"
rows=("$@")
[ $# -gt 0 ] || rows=(- figures training parquet,nats ray reference all pinned sdist)
quiet=(-m pip install --quiet --disable-pip-version-check)
small=(--dataset=digits --channels=2 --repeats=1)

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
            "$1/bin/python" "${quiet[@]}" --no-deps --requirement "$root/constraints.txt"
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

status=0
echo "| Python | extras | jax | packages | MB | install | --help | score | search | TFDS | own module | of TensorFlow, Keras, Ray, torch |"
echo "|---|---|---|---|---|---|---|---|---|---|---|---|"
for python in "${pythons[@]}"; do
    if ! name=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
        echo "| $python | no such interpreter |"
        status=1
        continue
    fi
    for row in "${rows[@]}"; do
        venv=$work/venv log=$work/$name-${row//,/-}.log
        echo "Python $name, $row: log in $log" >&2
        "$python" -m venv --clear "$venv"
        site=$(echo "$venv"/lib/python*/site-packages)
        # pip is the tool and no part of what is measured.
        bare=$(du -sm "$venv" | cut -f 1)
        installed=$(try "$log" install "$venv" "$row")
        size=$(($(du -sm "$venv" | cut -f 1) - bare))
        packages=$(find "$site" -maxdepth 1 -name '*.dist-info' | wc -l)
        jax=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("jax"))') || jax=-
        saboc=$venv/bin/saboc store=$work/away/$name-${row//,/-}
        help=$(try "$log" "$saboc" --help)
        score=$(try "$log" "$saboc" score "${small[@]}" --batch_size=6 --num_archs=2 \
            --scorers=ntk_score --store="$store.sqlite")
        search=$(try "$log" "$saboc" search "${small[@]}" --batch_size=8 --searcher=random \
            --max_evaluations=3 --workdir="$store")
        tfds=-
        [ -z "${SABOC_DATA_DIR:-}" ] || tfds=$(try "$log" "$saboc" score "${small[@]}" \
            --dataset=cifar10 --batch_size=6 --num_archs=2 --scorers=ntk_score \
            --store="$store-tfds.sqlite")
        own=$(try "$log" "$venv/bin/python" "$work/own.py")
        ours=$(ls "$site" | grep -E '^(saboc|experiments)' | grep -v dist-info | paste -sd ' ' -)
        [ "$row" != - ] || [ "$(present "$site")" = none ] || status=1
        [ "$ours" = saboc_jax ] || { status=1 && own="$own; at the top: $ours"; }
        echo "| $name | $row | $jax | $packages | $size | $installed | $help | $score | $search |" \
            "$tfds | $own | $(present "$site") |"
        case "$installed$help$score$search$tfds$own" in *failed*) status=1 ;; esac
        rm -rf "$venv" "$store"*
    done
done
exit "$status"
