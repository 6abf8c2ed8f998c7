"""`dtafsctl`, the administrator's command: its entry point."""

from __future__ import annotations

from dtafs.cli.start import start


def main() -> None:
    """The entry point."""
    start("dtafs.cli.commands", "ctl", "dtafsctl")


if __name__ == "__main__":
    main()
