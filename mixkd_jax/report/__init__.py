"""Reading a run's folder: its numbers, what they say of the claims, figures, tables and pages."""
