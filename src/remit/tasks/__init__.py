"""What for: mandates that bound a task, and the desk that opens, measures and closes tasks."""
