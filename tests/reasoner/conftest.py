"""Leaves out what needs torch and transformers where they are not installed."""

import importlib.util

collect_ignore = (
    []
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
    else ["test_measure.py", "test_tokenizer.py", "test_training.py", "test_shipped_model.py"]
)
