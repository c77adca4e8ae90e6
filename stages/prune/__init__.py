"""Removing channels: masks, budgets, surgery, criteria."""
