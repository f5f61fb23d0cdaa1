"""Names of the files of recorded shadow traffic: the proxy writes them, calibration reads them."""

TABLE = "scores.csv"
PROMPTS = "prompts.jsonl"
SALT = "salt"
SERVED = "served.json"
