"""A rolling upgrade, under load, from any commit of this repository to the tree it stands in.

python tests/chaos/upgrade.py --from v0.1.0
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.upgrades import main

if __name__ == "__main__":
    sys.exit(main())
