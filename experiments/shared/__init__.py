"""What the experiments share: command line, clock, machine, tables, and runs of the program."""
