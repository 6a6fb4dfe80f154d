"""A conftest puts its folder on the path: tests in folders below import the
helpers that lie here."""
