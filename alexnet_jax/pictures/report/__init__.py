"""What a run gets wrong and what it has learned, on one page: `--mode=evaluate --report`.

making   tests the run, computes and writes        page   the page, one file that needs no network
"""
