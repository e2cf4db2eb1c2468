import sys

from dino_tutorial.cli import main

sys.exit(main())
