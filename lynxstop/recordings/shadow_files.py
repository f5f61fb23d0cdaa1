"""Names of the files of recorded shadow traffic: the proxy writes them, calibration reads them."""

TABLE = "scores.csv"
PROMPTS = "prompts.jsonl"
SALT = "salt"
SERVED = "served.json"
LEFT_OUT = "left_out.txt"
"""A line for each request that is not in the table, with the reason."""
