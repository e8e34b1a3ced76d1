#!/bin/sh
# Cloud TPU, every host of a pod slice: TPU=my-pod ZONE=us-central2-b sh tpu_pod.sh --config.data.cache=/shared/imagenet
# Installed there before, in the same way: pip install 'alexnet_jax[tpu]'; /shared is a disk of all of them.
gcloud compute tpus tpu-vm ssh "${TPU:?its name}" --zone="${ZONE:?its zone}" --worker=all \
    --command="python3 -u -m alexnet_jax.main --workdir=/shared/alexnet --config=imagenet $*"
