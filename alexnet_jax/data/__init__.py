"""From a dataset to batches: sources, the fixed-resolution cache, augmentation, the grain stream.

The way the data goes (each step is one module, to be imported by its own name):

    sources.open_source   TFDS, folders, ImageNet's tars, IDX    -> encoded images with their labels
    images                decoding, resizing                     -> uint8 RGB squares
    cache.ensure_cache    the paper's section 2, done once       -> SxS memory-mapped uint8 arrays
    augment               crop, flip and PCA lighting (4.1)      -> uint8 crops
    stream                shuffled batches whose order depends on the seed alone

This package imports nothing by itself: worker processes and `--help` should not pay for grain or
TFDS.
"""
