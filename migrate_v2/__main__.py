"""`python -m migrate_v2` is the program."""

import gc
import sys

gc.disable()  # nothing of what is imported is garbage: a tenth of the start

from migrate_v2.cli import main  # noqa: E402

gc.enable()
sys.exit(main())
