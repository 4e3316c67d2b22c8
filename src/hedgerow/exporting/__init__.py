"""From a finished run to files that are smaller, timed, and attacked again."""
