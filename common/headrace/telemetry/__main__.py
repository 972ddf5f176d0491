"""``python -m headrace.telemetry``: print the reference page, `docs/metrics.md`."""

import sys

from headrace.telemetry._reference import describe

if __name__ == "__main__":
    sys.stdout.write(describe())
