"""What trained models predict, and the scores and analyses of that; import its modules by name."""
