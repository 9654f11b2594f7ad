"""python -m tests.hostile FOLDER"""

import sys
from pathlib import Path

from tests.hostile import write

if len(sys.argv) != 2:
    sys.exit("usage: python -m tests.hostile FOLDER")
write(Path(sys.argv[1]))
