"""The shipped reasoning model: training traces, training, measurement, its card."""
