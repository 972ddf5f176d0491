"""The chart on a Kubernetes of its own; see README.md.

python tests/kubernetes/cluster.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.kube.command import main

if __name__ == "__main__":
    sys.exit(main())
