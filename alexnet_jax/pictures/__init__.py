"""What is drawn: Figures 3 and 4 of the paper, learning curves, the table of the network, why a
network answers as it does, and for a run the page with all of it (`report`)."""
