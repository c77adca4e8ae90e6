"""Tracking: a stage writes lines to a spool, a background process passes them on to MLflow."""
