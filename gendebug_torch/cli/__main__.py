"""`python -m gendebug_torch.cli`."""

import sys

from gendebug_torch.cli.main import main

sys.exit(main())
