"""Tiers: other places than the lake's own disk where its objects may lie, behind one interface."""
