"""What is drawn: Figures 3 and 4 of the paper, learning curves, and the table of the network."""
