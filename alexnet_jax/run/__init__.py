"""A run: the devices and parts that a configuration asks for, and what lies in its directory.

devices, parts        mesh, data and network      metrics           the rows of metrics.jsonl
checkpoint, reading   orbax, and checksums        inputs            mean image and class names
restore               a checkpoint's weights      joining, hosts    several processes as one
"""
