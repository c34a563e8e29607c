from liftstudio.cli import main

raise SystemExit(main())
