#!/usr/bin/env bash
# Starts the training of one run folder, or goes on with it where it already has a checkpoint. Whoever
# restarts it after a crash or a reboot (Supervisor, cron, a loop) needs to know nothing more.
#
#   bash runs/train_or_resume.sh out/long preset=small
#
# Exit codes that say that a restart is no use: 0 it has ended; 2 a setting or a file is wrong; 70 the loss
# is not finite again and again; 74 the disk is full or gone; 129, 130, 143 a signal asked it to stop. After
# any other one (75: another process of the training died; 137: kill -9) start it again.
set -euo pipefail
cd "$(dirname "$0")/.."

run=${1:?usage: bash runs/train_or_resume.sh RUN_FOLDER [key=value ...]}
shift
for trace in "$run"/step_* "$run"/.corrupt-*; do
  if [ -e "$trace" ]; then
    set -- resume=True "$@"
    break
  fi
done
# exec: a signal then reaches the training itself, which saves before it stops.
exec python ./train.py train out="$run" "$@"
