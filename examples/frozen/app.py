"""The application that `build.py` freezes: edgecolbert's command line under another name, with everything it can do.

An application of your own imports `edgecolbert` instead; nothing else changes. Run it unfrozen:

    python examples/frozen/app.py search "water keeps dripping at night" --db handbook.db
"""

import sys

from edgecolbert.cli import main

if __name__ == "__main__":
    sys.exit(main())
