"""`python3 benches/runner bench|week|scale|joins|instructions`: see the Makefile for the variables."""

import importlib
import signal
import sys

from shell import Failed

if len(sys.argv) != 2 or sys.argv[1] not in ("bench", "week", "scale", "joins", "instructions"):
    sys.exit(__doc__)
# Ended from outside it unmounts and cleans up too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
try:
    importlib.import_module(sys.argv[1]).main()
except Failed as failure:
    sys.exit(f"{sys.argv[1]}: {failure}")
