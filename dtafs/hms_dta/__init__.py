"""The Python API of dtafs under the name by which HMS-DTA knows it."""

from __future__ import annotations

from dtafs.api import Dataset, Lake, Transform

__all__ = ["Dataset", "Lake", "Transform"]
