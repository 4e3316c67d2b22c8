"""Sweeps: the cells of grids, or the trials of a search, on one machine or a cluster; paused and gone on with.

`grids.run_sweep`, `search.run_search` and `pause.ask_to_pause` are what the command `hedgerow sweep` calls.
"""
