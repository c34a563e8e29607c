from liftstudio.cli.command_line import main

raise SystemExit(main())
