"""Whole jobs made of the parts below: make, train and calibrate a bundle, learning curves."""
