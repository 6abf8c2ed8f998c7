"""The command `dtafsctl`, which kills itself where `tests.crash.killed_daemon` says."""

from __future__ import annotations

from dtafs.cli.ctl import main
from tests.crash.killed_daemon import arm

if __name__ == "__main__":
    arm()
    main()
