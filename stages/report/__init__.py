"""The report: pages and boards made from the result files alone."""
