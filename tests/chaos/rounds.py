"""Rounds of faults against three coordinators, three NATS servers and workers; see README.md.

python tests/chaos/rounds.py --rounds 100
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.rounds.command import main

if __name__ == "__main__":
    sys.exit(main())
