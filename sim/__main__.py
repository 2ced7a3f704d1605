"""``python -m sim``: run seeds, replay one, look for planted bugs."""

import sys

from sim.cli import main

if __name__ == "__main__":
    sys.exit(main())
