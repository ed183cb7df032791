#!/usr/bin/env bash
# The whole way in minutes on a CPU: train on the starter corpus, resume, fine-tune, evaluate, chat.
# It proves that the parts fit together, not that the model is good: it stops long before it is.
# Nothing is left behind but data/cache.
#
#   bash runs/smoke.sh
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
set -x

accelerate launch ./train.py train data=data/starter out="$out/train" device=cpu max_steps=60 save_every_steps=30 eval_answers=0
accelerate launch ./train.py train resume=True data=data/starter out="$out/train" max_steps=80
accelerate launch ./train.py finetune=True data=data/starter/finetune out="$out/finetune" init_from="$out/train" device=cpu max_steps=10
python ./train.py evaluate model="$out/finetune" device=cpu show=2
printf '你好\n中国的首都是哪里？\n' | python cli_demo.py chat model="$out/train" device=cpu
