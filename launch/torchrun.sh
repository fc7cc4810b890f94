#!/usr/bin/env bash
# Train on one node or on several, with one process for each device.
#
#   launch/torchrun.sh CONFIG [KEY=VALUE ...]
#
# PROCESSES is the number of processes on each node: a number, or gpu for all GPUs (the default).
# On several nodes, run the script on each of them with NODES, their number, and HEAD, the name of
# one of them and a free port there, such as HEAD=node1:29500.
set -euo pipefail
if [ "${NODES:-1}" = 1 ]; then
    meeting=(--standalone)
else
    meeting=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id singleout)
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${meeting[@]}" \
    --nproc-per-node "${PROCESSES:-gpu}" -m singleout train "$@"
