#!/usr/bin/env bash
# From raw corpora to a chat, in the order of the commands of README.md. Put the files that you fetched
# into data/raw/<source>/ first (data/README.md says which); corpora that are absent are skipped.
#
#   bash runs/speedrun.sh                                              one GPU, the 0.2B model
#   LAUNCH="--multi_gpu --num_processes 2" bash runs/speedrun.sh       two GPUs
#   bash runs/speedrun.sh preset=small epochs=1                        any settings of train.py
#
# It takes minutes to days, depending on the corpora and the GPU: run it inside tmux or screen. If the
# training is interrupted, go on with: accelerate launch ./train.py train resume=True
set -euo pipefail
cd "$(dirname "$0")/.."
set -x

python -m utils.raw_data_process clean
python -m utils.raw_data_process build
python -m utils.raw_data_process stats
python -m utils.train_tokenizer
# LAUNCH holds several words on purpose.
# shellcheck disable=SC2086
accelerate launch ${LAUNCH:-} ./train.py train "$@"
python ./train.py evaluate
python cli_demo.py chat
