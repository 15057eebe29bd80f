#!/usr/bin/env bash
# Fuzzes for about an hour: every suite of tests/fuzz with many more cases than the tests have.
# Usage: scripts/fuzz.sh [CASES] [SEED]; each suite prints how many it tried and what became of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export SABOC_FUZZ_CASES="${1:-2000}" SABOC_FUZZ_SEED="${2:-$RANDOM}"
echo "seed $SABOC_FUZZ_SEED, $SABOC_FUZZ_CASES cases of each suite"
"${PYTHON:-python}" -m pytest -q -s -p no:cacheprovider tests/fuzz
