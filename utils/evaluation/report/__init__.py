"""The page of eval.py --report: where a network fails, which labels are likely wrong, what its scores are worth."""
