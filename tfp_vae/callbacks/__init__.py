"""What Keras calls during training: schedules, guards, pictures."""
