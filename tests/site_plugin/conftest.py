"""The tests here need the distribution installed: `tests/site` does that and runs them, an ordinary run passes by."""

collect_ignore = ["tests"]
