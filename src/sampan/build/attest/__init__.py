"""What a build says about its result: provenance and bills of materials. Pure but for `scan`, which reads a root."""
