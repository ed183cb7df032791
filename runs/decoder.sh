#!/usr/bin/env bash
# The second road without a large model: a decoder of 10M weights, trained from scratch on pairs, then
# tuned with LoRA on Alpaca's instructions and compared with what it was before. About an hour and a
# half on two cores with bf16; without bf16 leave out precision=bf16, it takes twice as long.
#
#   bash runs/decoder.sh pairs.parquet data/alpaca_data_zh.json
#
# The pairs should not hold the instructions themselves, or nothing is held out. If the training is
# interrupted, go on with: accelerate launch ./train.py resume=True out=out/decoder-pairs
set -euo pipefail
cd "$(dirname "$0")/.."
pairs=$1 alpaca=$2
set -x

python -m utils.train_tokenizer data="$pairs" out=out/decoder-tokenizer vocab_size=8000 max_chars=12000000
python -m utils.new_decoder tokenizer=out/decoder-tokenizer out=out/decoder
accelerate launch ./train.py finetune=True base=out/decoder lora.rank=0 data="$pairs" out=out/decoder-pairs learning_rate=2.5e-3 batch_size=64 max_steps=1400 max_source_tokens=160 max_target_tokens=192 microbatch_tokens=8192 gradient_shares=1 precision=bf16 eval_answers=0
python -m utils.export_model model=out/decoder-pairs format=hf out=out/decoder-base
python -m utils.cover_alpaca2jsonl --data_path "$alpaca" --save_path out/alpaca.jsonl
python -m utils.tokenize_dataset_rows --jsonl_path out/alpaca.jsonl --save_path out/alpaca --max_seq_length 200 --skip_overlength true base=out/decoder-base
accelerate launch ./train.py finetune=True base=out/decoder-base data=out/alpaca lora.rank=8 lora.targets=all-linear learning_rate=2e-3 batch_size=64 max_steps=500 microbatch_tokens=8192 gradient_shares=1 precision=bf16 out=out/decoder-lora
python cli_demo.py compare model=out/decoder-lora data="$alpaca"
