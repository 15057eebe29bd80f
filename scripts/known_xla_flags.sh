#!/bin/sh
# Prints those of the given XLA flags that an interpreter's jaxlib knows: one that it does not know
# ends the process. Usage: scripts/known_xla_flags.sh PYTHON FLAG...
python=$1
shift
for flag in "$@"; do
  if XLA_FLAGS=$flag JAX_PLATFORMS=cpu "$python" -c 'import jax; jax.devices()' >/dev/null 2>&1; then
    printf '%s ' "$flag"
  fi
done
