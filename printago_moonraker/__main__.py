"""What a person runs as `python -m printago_moonraker`."""

import sys

from printago_moonraker.cli import main

sys.exit(main())
