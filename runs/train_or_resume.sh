#!/usr/bin/env bash
# Starts the training of one run folder, or goes on with it where it already has a checkpoint. Whoever
# restarts it after a crash or a reboot (Supervisor, cron, a loop) needs to know nothing more.
#
#   bash runs/train_or_resume.sh out/long preset=small
set -euo pipefail
cd "$(dirname "$0")/.."

run=${1:?usage: bash runs/train_or_resume.sh RUN_FOLDER [key=value ...]}
shift
if compgen -G "$run/step_*/MANIFEST.json" >/dev/null; then
  set -- resume=True "$@"
fi
# exec: a signal then reaches the training itself, which saves before it stops.
exec python ./train.py train out="$run" "$@"
