"""Task families: one file each; `tasks.suites` names the distributions that are in use."""
