"""Every field of a run, with the values of the 2012 training of the full network."""

import dataclasses

from ml_collections import ConfigDict, config_dict

from alexnet_jax.model import Network
from alexnet_jax.model.network import LAYERS
from alexnet_jax.settings import presets


def get_config(preset: str = "reconciled") -> ConfigDict:
    """Returns the 2012 run, in one of the three readings of `settings.presets`."""
    config = ConfigDict()
    config.preset = preset  # the reading of the paper that the fields below start from
    config.seed = 0  # of the initial weights, the dropout masks and the input's order
    config.batch_size = 128  # images a step, over all devices (paper section 5)
    # Parts of it that are computed one after the other, for less memory; the step is the same, but
    # batch norm looks at a part at a time.
    config.accumulate = 1
    # Start from the weights of this run, or of what `convert` made, not from random ones.
    config.init_from = config_dict.placeholder(str)
    # True (`finetune`): what nobody sets is as init_from and the images have it: the network and
    # data.size, classes, splits and batch_size (see `settings.adapting`).
    config.adapt = False
    config.epochs = 90.0  # may be fractional; "roughly 90 cycles" (section 5)

    config.model = ConfigDict(dataclasses.asdict(Network()))

    config.optim = ConfigDict()
    # 'sgd', the rule of 2012, or 'lars': for large batches, every kernel's step is in proportion to
    # its own norm (arXiv 1708.03888).
    config.optim.rule = "sgd"
    config.optim.trust = 0.001  # of 'lars': that proportion, at a rate of 1
    config.optim.warmup = 0.0  # share of the run in which the rates rise to their first values
    # 'steps', 'plateau' (the paper's), of 2012's lab notes 'dexp' (in more and smaller steps) and
    # 'exp' (a little at every step), or 'poly' (the square of what is left of the run).
    config.optim.schedule = "steps"
    # 'dexp' and 'exp': the weights' last rate, as a share of learning_rate (layer-params-170.cfg).
    config.optim.final_share = 0.004
    config.optim.learning_rate = 0.01  # of the weights (section 5)
    config.optim.momentum = 0.9  # section 5
    config.optim.weight_decay = 0.0005  # section 5
    config.optim.decay_biases = False  # layer.cu:565
    config.optim.bias_multiplier = 2.0  # of the weights' rate (layer-params-145.cfg)
    # 'steps': the shares of the run after which the rate is divided by 10
    # (25, 51 and 79 of 91 epochs; layer-params-145.cfg:169-181).
    config.optim.drops = (0.27, 0.56, 0.87)
    # The same for the biases' rate; () never lowers it.
    config.optim.bias_drops = (0.27, 0.56, 0.87)
    # 'steps': the shares after which that of the weights is multiplied by 10, as the published
    # net's was once it had converged, twice at one share (layer-params-145.cfg:192-203).
    config.optim.rises = ()
    # Shares of the run after which conv1's weights go to 1/1000 of learning_rate (1e-5 in 2012's
    # notes), and freeze; 1 is never.
    config.optim.conv1_slow_after = 1.0
    config.optim.conv1_frozen_after = 1.0
    # Of each layer: its weights and biases learn at so many times these rates; at 0 it is frozen.
    config.optim.rates = ConfigDict(dict.fromkeys(LAYERS, 1.0))
    # 'plateau': validations without a better top-1 error before the rate is divided by 10, three
    # times at most (section 5).
    config.optim.patience = 5

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"  # the images; see data/sources for the forms
    config.data.dir = config_dict.placeholder(str)  # of datasets; None: TFDS's own
    # A cache that `alexnet_jax.prepare` made, of any source. None: the source's own under data.dir,
    # made if need be; 'none': without one, every image is decoded in every epoch.
    config.data.cache = config_dict.placeholder(str)
    config.data.size = 256  # the fixed resolution (section 2)
    config.data.train = "train"  # the split to train on
    config.data.validation = "validation"  # the split looked at during training; '' for none
    # The split looked at once, at the end: the labels of ImageNet's test split are not public, so
    # the paper's own Table 2 is on the validation split.
    config.data.test = "validation"
    config.data.holdout = 0.0  # training images set aside as the split 'validation'; < 1: a share
    config.data.flip = True  # section 4.1, the first form of augmentation
    config.data.crop = True  # the same: training crops lie anywhere; False: in the centre
    config.data.last_offset = True  # 33 x 33 crops (convdata_jpeg.py:239); False: the printed 32
    config.data.mean = "centre"  # centre crop of the mean image (convdata_jpeg.py:95), or 'aligned'
    # 'sqrt' of the eigenvalues (convdata_jpeg.py:155-179); 'eigenvalue': as printed, for pixels
    # scaled to 0..1; 'none'
    config.data.lighting = "sqrt"
    config.data.lighting_until = 0.75  # share of the run, as in the lab notes
    config.data.lighting_divisor = 1.0  # of the image while lighting is on
    config.data.lighting_on = "host"  # or 'device': exact and faster
    # That prepare batches, in every process; the batches are the same for any number. 0: one, or as
    # many as there are cores where images are decoded in every epoch.
    config.data.threads = 0

    # Of the activations, 'float32' or 'bfloat16'; parameters, LRN, loss and tests stay float32.
    config.dtype = "float32"
    # Of float32 products in training: 'default' is the platform's fastest (TF32 on a GPU, one pass
    # of bfloat16 on a TPU), 'high' three of its passes, 'highest' float32. On a CPU all are that.
    config.precision = "default"
    config.deterministic = False  # on a GPU: no operator whose sums have another order every time

    config.mesh = ConfigDict()
    config.mesh.data = 0  # devices that share a batch; 0: all
    config.mesh.tower = 0  # devices that share the network; 0: 2 when the number of devices is even

    config.eval_batch_size = 128  # images at a time in tests, over all devices
    config.log_every = 100  # steps from one row of training metrics to the next
    config.eval_every = 1.0  # epochs from one validation to the next
    config.checkpoint_every = 1.0  # epochs from one checkpoint to the next; the best comes besides
    config.keep_checkpoints = 3  # of the latest; the best one is kept besides

    return presets.apply(config, preset)
