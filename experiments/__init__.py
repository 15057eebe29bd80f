"""Runnable experiments: absl binaries over the library."""

from .interrupts import is_program, watch

if is_program():  # before the long imports: a Ctrl-C there is no traceback either
    watch()
