"""Tries an LMDB environment out: `python -m dtafs.store.probe DIRECTORY TABLE…`.

LMDB ends a process over some kinds of damage, so a file that may have lost pages is used here first.
Exit code 0 when all of it can be reached; otherwise not 0, with the reason on stdout where there was
time for one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dtafs.errors import DtafsError
from dtafs.store.database import Database


def main(arguments: list[str]) -> int:
    """Open the environment and read all of it."""
    try:
        database = Database(Path(arguments[0]), arguments[1:], trial=True)
        database.read_through()
        database.close()
    except DtafsError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
