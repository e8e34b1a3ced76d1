"""What a run is made of: `base` has every field, the others change a few of them.

A configuration is a file with `get_config(preset)`, which returns plain data. `--config=NAME`
takes one of this folder, `--config=PATH.py` any file, `--config=NAME:PRESET` another reading of the
paper.
"""
