"""python -m forge"""

from forge.cli.app import main

main()
