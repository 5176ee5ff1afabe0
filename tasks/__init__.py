"""What gets optimized: tasks, the families they are drawn from, their data, and named suites of them."""
