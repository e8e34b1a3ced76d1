"""How a network is tested and asked: the paper's sections 4.1, 6 and 6.1.

views            what is cut from an image          scores       errors, losses, intervals
viewer           from weights to the probabilities of any views
evaluator        one network's errors               ensemble     several networks as one
by_class         errors by class, confusions, mistakes
trained_network  `alexnet_jax.load`                 layers       what they are called
answers, features, neighbours, album                feature_places, feature_files, feature_writers
why              what an answer depends on
"""
