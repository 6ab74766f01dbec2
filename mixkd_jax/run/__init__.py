"""A run: its folder, its plan of fits, and what is done with each; import its modules by name."""
