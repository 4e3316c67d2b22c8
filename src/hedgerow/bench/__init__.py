"""How fast a recipe trains on this machine: `hedgerow bench` and `hedgerow tune`."""
