"""From a dataset to batches: sources, the fixed-resolution cache, augmentation, the grain stream.

The way the data goes (each step is one module, to be imported by its own name):

    sources.open_source   TFDS, folders, ImageNet's tars, IDX    -> encoded images with their labels
    decoding              decoding, resizing                     -> uint8 RGB squares
    dataset.ensure_cache  the paper's section 2, done once       -> SxS memory-mapped uint8 arrays
    augmentation          crop, flip and PCA lighting (4.1)      -> uint8 crops
    stream                shuffled batches whose order depends on the seed alone

`on_demand` stands for a cache where there is no space for one, `preparing` is the command's work,
`photos` are files that a user names. This package imports nothing by itself: worker processes and
`--help` should not pay for grain or TFDS.
"""
