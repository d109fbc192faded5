import sys

from d2it.cli import main

sys.exit(main())
