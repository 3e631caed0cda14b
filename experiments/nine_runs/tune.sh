#!/usr/bin/env bash
# Seven learning rates for each method, chosen on validation with a seed that no reported run has (about 15 minutes
# on 2 cores). The head's rate is chosen first, on the head alone, and then shared by all methods.
set -euo pipefail
cd "$(dirname "$0")/../.."
common=(rank=8 target=all_linear seed=100 trainer=tune tracking=none results_dir=results/tuning)
run() { .venv/bin/python -m src.run -m "$@" "${common[@]}"; }
run adapter=head_only trainer.head_lr=1e-3,3e-3,1e-2,3e-2,1e-1,3e-1,1
run adapter=lora,lora_fa lr=1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1
run adapter=lora_sb,lora_xs lr=1e-3,3e-3,1e-2,3e-2,1e-1,3e-1,1
run adapter=full lr=1e-5,3e-5,1e-4,3e-4,1e-3,3e-3,1e-2
