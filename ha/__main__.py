"""`python -m ha` is the `ha` command."""

import sys

from ha.cli.main import main

sys.exit(main())
