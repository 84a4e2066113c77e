"""Fixtures, fakes and contract suites, shipped so that users test with them too."""
