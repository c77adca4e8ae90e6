"""What papers share that teach a small network by a large one."""
