"""Where packs lie beside the hot disk: stubs, reading from tiers, moving, recalling, deleting everywhere."""
