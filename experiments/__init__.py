"""The paper's claims and the project's own, measured; `results/` holds what the commands wrote."""
