"""What is drawn: Figures 3 and 4 of the paper, learning curves, the table of the network, and why
a network answers as it does."""
