"""Keras callbacks: schedules, guards and pictures."""
