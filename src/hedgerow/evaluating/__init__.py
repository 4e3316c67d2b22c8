"""The commands that judge a network: `hedgerow evaluate` and `hedgerow certify`."""
