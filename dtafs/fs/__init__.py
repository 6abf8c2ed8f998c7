"""The mount: what a lake looks like as a file system, and the thin adapter that FUSE calls."""
