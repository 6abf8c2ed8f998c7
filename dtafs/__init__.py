"""dtafs: a data lake that you mount.

`from dtafs import Lake, Dataset, Transform` is the Python API. The names are looked up when they
are first used, so that a command which needs none of them does not pay for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtafs.api import Dataset, Lake, Transform

__version__ = "0.1.0"
__all__ = ["Dataset", "Lake", "Transform", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("Dataset", "Lake", "Transform"):
        from dtafs import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
