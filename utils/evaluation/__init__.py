"""What a network's answers are worth: figures, predictions, features and pictures."""
