"""`python -m safelox`: the same as the command `safelox`."""

import sys

from safelox.cli import main

if __name__ == "__main__":
    sys.exit(main())
