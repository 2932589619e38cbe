"""What happens to an image between the model and the analyst, by name ("jpeg:75")."""
