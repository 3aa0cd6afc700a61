"""``python -m softdiamond``: the command line."""

import sys

from softdiamond.cli import main

sys.exit(main())
