"""The command `dtafs` with its event loop watched for as long as it serves a mount."""

from __future__ import annotations

import pyfuse3

from dtafs.cli.daemon import main
from tests.support.steps import StepWatch

serve_requests = pyfuse3.main


async def watched(min_tasks: int, max_tasks: int) -> None:
    """What pyfuse3 does, watched: before it begins nobody waits for the loop, nor after it."""
    with StepWatch():
        await serve_requests(min_tasks, max_tasks)


if __name__ == "__main__":
    vars(pyfuse3)["main"] = watched
    main()
