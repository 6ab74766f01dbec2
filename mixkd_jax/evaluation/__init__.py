"""From trained models to numbers, figures and a report; import its modules by name."""
