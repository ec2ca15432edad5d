"""`python -m meshlib_control.cli`, for where no script is installed."""

import sys

from meshlib_control.cli import main

sys.exit(main())
