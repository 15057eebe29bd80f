#!/usr/bin/env bash
# Builds wheel and sdist, installs them in clean environments, runs `saboc` there, prints a table,
# row by row.
#
# Usage: scripts/install_matrix.sh [extras; default: all that pyproject.toml lists]
# Interpreters: python3.11, python3.12 and python3.13, or those named by PYTHON311, PYTHON312 and
# PYTHON313. Environments and logs are made anew in .cache/install; each is removed after its row.
# Ways: "plain" is what a user types, `pip install 'saboc_jax[extras]'`, TensorFlow included, which
# neural-tangents asks for; "pinned" is constraints.txt without it, as `make` installs. ROWS names
# some of "pinned-wheel pinned-sdist plain-wheel", the default.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD work=$PWD/.cache/install
rm -rf "$work"
mkdir -p "$work"
# The newest of the interpreters builds, and reads pyproject.toml.
builder=${PYTHON313:-python3.13}
extras=${1:-$("$builder" -c 'import tomllib
print(",".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]))')}
flags=(--dataset=digits --channels=2 --batch_size=6 --repeats=1 --num_archs=2 --scorers=ntk_score)

# What git holds, so that nothing that lies about gets into the archives.
git archive --prefix=source/ HEAD | tar -x -C "$work"
"$builder" -m venv "$work/builder"
"$work/builder/bin/python" -m pip install --quiet --disable-pip-version-check build
"$work/builder/bin/python" -m build --outdir "$work/dist" "$work/source" >"$work/build.log" 2>&1
wheel=$(ls "$work"/dist/*.whl) sdist=$(ls "$work"/dist/*.tar.gz)

# install DIRECTORY WAY ARCHIVE
install() {
    local pip=("$1/bin/python" -m pip install --quiet --disable-pip-version-check)
    if [ "$2" = pinned ]; then
        "${pip[@]}" --no-deps --requirement "$root/constraints.txt"
        "${pip[@]}" --no-deps "$3"
    else
        "${pip[@]}" "$3[$extras]"
    fi
}

# try NAME COMMAND...: "ok" with its seconds, or what went wrong; run far from the source.
try() {
    local start=$SECONDS log=$1
    shift
    if (cd "$work/away" && "$@") >>"$log" 2>&1; then
        echo "ok, $((SECONDS - start)) s"
    else
        status=1
        echo "failed: $(tail -n 1 "$log" | cut -c -60 | tr '|' '/')"
    fi
}

status=0
mkdir -p "$work/away"
echo "| Python | archive | way | jax | pip install | saboc --help | first score |"
echo "|---|---|---|---|---|---|---|"
for python in "${PYTHON311:-python3.11}" "${PYTHON312:-python3.12}" "${PYTHON313:-python3.13}"; do
    if ! name=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
        echo "| $python | - | - | - | no such interpreter | - | - |"
        status=1
        continue
    fi
    for row in ${ROWS:-pinned-wheel pinned-sdist plain-wheel}; do
        way=${row%-*} kind=${row#*-}
        archive=$wheel
        [ "$kind" = wheel ] || archive=$sdist
        venv=$work/venv log=$work/$name-$way-$kind.log
        echo "Python $name, $kind, $way: log in $log" >&2
        "$python" -m venv --clear "$venv"
        installed=$(try "$log" install "$venv" "$way" "$archive") || true
        help=$(try "$log" "$venv/bin/saboc" --help)
        score=$(try "$log" "$venv/bin/saboc" score "${flags[@]}" --store="$work/$name-$way.sqlite")
        jax=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("jax"))') || jax=-
        echo "| $name | $kind | $way | $jax | $installed | $help | $score |"
        case "$installed$help$score" in *failed*) status=1 ;; esac
        rm -rf "$venv" "$work/$name-$way.sqlite"
    done
done

echo
echo "Extras of \"plain\": $extras"
exit "$status"
