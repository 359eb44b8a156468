"""`python -m migrate_v2` is the program."""

import sys

from migrate_v2.cli import main

sys.exit(main())
