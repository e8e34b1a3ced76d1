"""What the paper says, sentence by sentence, each run and judged."""
