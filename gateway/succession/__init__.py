"""Who serves a task, who comes next, and who goes: students, from candidate to rollback."""
