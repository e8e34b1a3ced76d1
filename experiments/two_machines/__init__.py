"""Two processes, one tower each, as the two GPUs of 2012; and what they send each other."""
