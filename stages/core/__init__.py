"""Run context, parameters, seeds, result files, statistics, tracking."""
