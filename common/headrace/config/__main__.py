"""``python -m headrace.config``: print the reference page, `docs/configuration.md`."""

import sys

from headrace.config._reference import describe

if __name__ == "__main__":
    sys.stdout.write(describe())
