"""The KL from a posterior to its prior."""
