import sys
from pathlib import Path

import greeting

Path(sys.argv[1]).write_text(greeting.GREETING)
