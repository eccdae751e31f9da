"""`python -m edgecolbert`."""

import sys

from edgecolbert.cli import main

sys.exit(main())
