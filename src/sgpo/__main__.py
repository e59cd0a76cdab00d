"""`python -m sgpo`, for launchers such as `accelerate launch -m sgpo train ...`."""

import sys

from sgpo.cli import main

sys.exit(main())
