#!/usr/bin/env bash
# The same training on several machines. Run this line on every one of them, with its own NODE (0, 1, ...):
#
#   NODES=2 NODE=0 PER_NODE=8 MAIN=10.0.0.1:29500 bash runs/multi_node.sh preset=base out=out/long
#
# NODE=0 is the machine that MAIN names (its address, and a free port that the others reach). PER_NODE is the number
# of GPUs of each machine; without GPUs it is the number of processes. Any settings of train.py follow.
#
#   LAUNCHER=torchrun     instead of accelerate: the same DDP, less to configure
#   CONFIG=runs/zero1.yaml, runs/zero3.yaml, runs/fsdp2.yaml, accelerate.yaml (ZeRO-2): how the model is shared out;
#                         the default runs/ddp.yaml keeps it whole everywhere (accelerate only)
#
# The run folder (out=) must lie on a disk that all machines see: one process writes checkpoints, or each its piece,
# and all read them when they resume. The pairs may lie on such a disk or on each machine. The order of the pairs, the
# batch of a step and the schedule are the same on any number of machines, so batch_size= need not be changed.
set -euo pipefail
cd "$(dirname "$0")/.."

nodes=${NODES:?how many machines}
node=${NODE:?which of them this is, from 0}
per_node=${PER_NODE:?how many processes each runs}
main=${MAIN:?address:port of machine 0}

if [ "${LAUNCHER:-accelerate}" = torchrun ]; then
  exec torchrun --nnodes "$nodes" --node_rank "$node" --nproc_per_node "$per_node" \
    --master_addr "${main%:*}" --master_port "${main##*:}" ./train.py train "$@"
fi
# DeepSpeed's own launcher would want to log in on the other machines; `standard` starts as torchrun does.
exec accelerate launch --config_file "${CONFIG:-./runs/ddp.yaml}" \
  --num_machines "$nodes" --machine_rank "$node" --num_processes "$((nodes * per_node))" \
  --main_process_ip "${main%:*}" --main_process_port "${main##*:}" --deepspeed_multinode_launcher standard \
  ./train.py train "$@"
