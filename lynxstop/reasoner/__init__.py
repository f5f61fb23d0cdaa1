"""The small reasoning model that is trained from scratch and shipped with the project."""
