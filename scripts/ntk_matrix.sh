#!/usr/bin/env bash
# Runs the NTK tests on the oldest and the newest supported versions, and prints one table.
#
# Usage: scripts/ntk_matrix.sh [pytest arguments; default: tests/ntk]
# Interpreters: python3.11, python3.12 and python3.13, or those named by PYTHON311, PYTHON312 and
# PYTHON313. Environments and logs are kept in .cache/matrix; delete it to build them anew.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=("${@:-tests/ntk}")
work=.cache/matrix
mkdir -p "$work"

# The lowest version of every direct dependency that pyproject.toml allows.
floor=(
    jax==0.4.38 jaxlib==0.4.38 flax==0.10.2 optax==0.2.4 orbax-checkpoint==0.10.2
    numpy==1.26.4 scipy==1.11.4 jaxtyping==0.2.34 matplotlib==3.10.8 pillow==10.2.0
    rich==13.7.1 absl-py==2.1.0 tensorflow-datasets==4.9.10 array_record==0.5.1
)
tools=(pytest pytest-xdist hypothesis beartype frozendict)

# build PYTHON DIRECTORY SET: an environment, unless a complete one is there.
build() {
    local pip=("$2/bin/python" -m pip install --quiet --disable-pip-version-check)
    [ -e "$2/.complete" ] && return
    "$1" -m venv --clear "$2"
    if [ "$3" = floor ]; then
        "${pip[@]}" "${floor[@]}" "${tools[@]}"
        "${pip[@]}" --no-deps neural-tangents==0.6.5  # Its dependencies include TensorFlow.
    else
        "${pip[@]}" --no-deps --require-hashes --requirement constraints.txt
    fi
    touch "$2/.complete"
}

# version DIRECTORY DISTRIBUTION
version() {
    "$1/bin/python" -c "import importlib.metadata as m; print(m.version('$2'))"
}

status=0
rows=()
for entry in "${PYTHON311:-python3.11} floor" "${PYTHON311:-python3.11} pinned" \
    "${PYTHON312:-python3.12} pinned" "${PYTHON313:-python3.13} pinned"; do
    python=${entry% *} kind=${entry##* }
    if ! name=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
        rows+=("| $python | $kind | - | - | - | - | no such interpreter |")
        status=1
        continue
    fi
    venv=$work/$name-$kind log=$work/$name-$kind.log
    echo "Python $name, $kind: building $venv, then testing; log in $log" >&2
    build "$python" "$venv" "$kind" >&2
    "$venv/bin/python" -m pytest -p no:cacheprovider "${tests[@]}" >"$log" 2>&1 || status=1
    result=$(tail -n 1 "$log" | tr -d '=' | xargs)
    rows+=("| $name | $kind | $(version "$venv" jax) | $(version "$venv" flax) | $(
        version "$venv" numpy) | $(version "$venv" scipy) | $result |")
done

echo "| Python | versions | jax | flax | numpy | scipy | ${tests[*]} |"
echo "|---|---|---|---|---|---|---|"
printf '%s\n' "${rows[@]}"
exit "$status"
