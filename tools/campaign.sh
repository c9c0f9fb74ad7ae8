#!/usr/bin/env bash
# Runs the long campaigns and appends what they came to, with date, seed and command,
# to a report. They are the tests that `cargo test` runs with small numbers.
#
# Usage: tools/campaign.sh [REPORT]     (default: target/campaigns.md)
#   MAPLEAF_SEED     seed of all draws [default: one from the clock, printed]
#   MAPLEAF_KILLS    kill -9 of servers and mirrors [100000]
#   MAPLEAF_CUTS     files cut while in use [1000]
#   MAPLEAF_SECONDS  second servers [1000]
#   MAPLEAF_READS    reads of a busy tree, by threads and by another process [100000000]
set -euo pipefail
cd "$(dirname "$0")/.."

report=${1:-target/campaigns.md}
export MAPLEAF_SEED=${MAPLEAF_SEED:-$(date +%s)}
export MAPLEAF_KILLS=${MAPLEAF_KILLS:-100000}
export MAPLEAF_CUTS=${MAPLEAF_CUTS:-1000}
export MAPLEAF_SECONDS=${MAPLEAF_SECONDS:-1000}
export MAPLEAF_READS=${MAPLEAF_READS:-100000000}
mkdir -p "$(dirname "$report")"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

failed=0
# Runs the tests of a filter, with a variable that says how many, and notes the figures.
campaign() {
    local filter=$1 numbers=$2 tests=${3:-campaign}
    local command="MAPLEAF_SEED=$MAPLEAF_SEED $numbers cargo test --release --test $tests $filter -- --nocapture"
    echo "== $command"
    local begun=$SECONDS outcome=held
    if ! cargo test --locked --release --test "$tests" "$filter" -- --nocapture >"$log" 2>&1; then
        outcome='FAILED'
        failed=1
        tail -n 60 "$log" >&2
    fi
    {
        sed -n 's/.*\(figure: .*\)/- \1/p' "$log"
        printf -- '- %s: %s, %s s, %s, commit %s, `%s`\n' "$filter" "$outcome" "$((SECONDS - begun))" \
            "$(date -u +%F)" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$command"
    } | tee -a "$report"
}

echo "seed $MAPLEAF_SEED, report $report"
campaign cuts:: "MAPLEAF_CUTS=$MAPLEAF_CUTS"
campaign full:: ''
campaign kills::a_second "MAPLEAF_SECONDS=$MAPLEAF_SECONDS"
campaign reads:: "MAPLEAF_READS=$MAPLEAF_READS" tree_engine
campaign kills::kill_9 "MAPLEAF_KILLS=$MAPLEAF_KILLS"
exit "$failed"
