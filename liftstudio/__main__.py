"""`python -m liftstudio`: the command line."""

from liftstudio.cli.command_line import main

raise SystemExit(main())
