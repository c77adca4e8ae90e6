"""What several papers stand on: data and trained teachers, one folder a foundation."""
