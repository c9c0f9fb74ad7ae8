#!/usr/bin/env bash
# Runs the long campaigns and appends what they came to, with date, seed and command,
# to a report. They are the tests that `cargo test` runs with small numbers.
#
# Kills, the simulated year and the images of power loss go in batches, and each batch is in
# the report as soon as it is done: whoever interrupts them goes on later with the seed that
# the last line names, and what is left of the number.
#
# Usage: tools/campaign.sh [REPORT]     (default: target/campaigns.md)
#   MAPLEAF_ONLY     of cuts full second reads kills mutants files loops year images those
#                    that are to run, in one word list [all]
#   MAPLEAF_SEED     seed of all draws [default: one from the clock, printed]
#   MAPLEAF_KILLS    kill -9 of servers and mirrors, of files in TMPDIR [100000]
#   MAPLEAF_WORLDS   worlds of those at a time: they mostly wait [8]
#   MAPLEAF_CUTS     files cut while in use [1000]
#   MAPLEAF_SECONDS  second servers [1000]
#   MAPLEAF_READS    reads of a busy tree, by threads and by another process [100000000]
#   MAPLEAF_RUNS     altered inputs of each datagram type, of dearer targets a part of
#                    it (tests/corpus/mutants.rs), and of files as many again with
#                    AddressSanitizer [1000000000]
#   MAPLEAF_STEADY   reports of each device while allocations are counted [1000000]
#   MAPLEAF_HOURS    simulated hours, in worlds of half an hour [8760, a year]
#   MAPLEAF_IMAGES   images of power loss [100000000]
#   MAPLEAF_JOBS     processors for hours and images [all]
set -euo pipefail
cd "$(dirname "$0")/.."

report=${1:-target/campaigns.md}
export MAPLEAF_SEED=${MAPLEAF_SEED:-$(date +%s)}
export MAPLEAF_KILLS=${MAPLEAF_KILLS:-100000}
export MAPLEAF_WORLDS=${MAPLEAF_WORLDS:-8}
export MAPLEAF_CUTS=${MAPLEAF_CUTS:-1000}
export MAPLEAF_SECONDS=${MAPLEAF_SECONDS:-1000}
export MAPLEAF_READS=${MAPLEAF_READS:-100000000}
export MAPLEAF_RUNS=${MAPLEAF_RUNS:-1000000000}
export MAPLEAF_STEADY=${MAPLEAF_STEADY:-1000000}
hours=${MAPLEAF_HOURS:-8760}
images=${MAPLEAF_IMAGES:-100000000}
jobs=${MAPLEAF_JOBS:-$(nproc)}
# These are words of this script alone: what it starts would take them for its own.
only=${MAPLEAF_ONLY:-}
unset MAPLEAF_ONLY
known='cuts full second reads kills mutants files loops year images'
for name in $only; do
    case " $known " in
    *" $name "*) ;;
    *)
        echo "MAPLEAF_ONLY: expected some of '$known', found '$name'" >&2
        exit 2
        ;;
    esac
done
mkdir -p "$(dirname "$report")"
scratch=$(mktemp -d)
log=$scratch/log
# What runs in the background ends with the script, however that ends.
end() {
    local left
    left=$(jobs -p)
    # shellcheck disable=SC2086
    [ -z "$left" ] || kill $left 2>/dev/null || true
    rm -rf "$scratch"
}
trap end EXIT
trap 'exit 130' INT TERM

failed=0
# Runs the tests of a filter, with a variable that says how many, and notes the figures.
campaign() {
    local filter=$1 numbers=$2 test=${3:-campaign} profile=${4:-release} seed=${5:-$MAPLEAF_SEED}
    local command="MAPLEAF_SEED=$seed $numbers cargo test --profile $profile --test $test $filter -- --nocapture"
    echo "== $command"
    local begun=$SECONDS outcome=held
    # shellcheck disable=SC2086
    if ! env MAPLEAF_SEED="$seed" $numbers cargo test --locked --profile "$profile" --test "$test" "$filter" -- --nocapture >"$log" 2>&1; then
        outcome='FAILED'
        failed=1
        cp "$log" "$report.${filter//:/}.$seed.log"
        tail -n 60 "$log" >&2
    fi
    {
        sed -n 's/.*\(figure: .*\)/- \1/p' "$log"
        printf -- '- %s: %s, %s s, %s, commit %s, `%s`\n' "$filter" "$outcome" "$((SECONDS - begun))" \
            "$(date -u +%F)" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$command"
    } | tee -a "$report"
}

# Kills in batches of 5,000, with seeds from $1 on: a world draws from its batch's.
kills() {
    local seed=$1 left=$MAPLEAF_KILLS each
    while [ "$left" -gt 0 ]; do
        each=$((left < 5000 ? left : 5000))
        left=$((left - each))
        campaign kills::kill_9 "MAPLEAF_KILLS=$each MAPLEAF_WORLDS=$MAPLEAF_WORLDS" campaign release "$seed"
        seed=$((seed + 1))
        echo "$left kills left, go on with seed $seed"
    done
}

# What reads files and texts, with AddressSanitizer: two to six times as slow. The program
# allocates little and for short, so few of its bytes have to be held back after a free, and
# nobody has to know where they were allocated. A torn record is waited for, so those that
# open files mostly sleep, and many of them share a processor.
files() {
    local sanitizer='RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/asan'
    sanitizer+=" CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')"
    sanitizer+=' ASAN_OPTIONS=malloc_context_size=0:quarantine_size_mb=4'
    local runs="MAPLEAF_RUNS=$MAPLEAF_RUNS $sanitizer"
    campaign mutants_keep "MAPLEAF_ONLY=inspect,open MAPLEAF_THREADS=$((12 * $(nproc))) $runs" corpus checked
    campaign mutants_keep "MAPLEAF_ONLY=schema,blob,dump,config,lines $runs" corpus checked
}

# Whether a campaign is asked for.
asked() { [ -z "$only" ] || [[ " $only " == *" $1 "* ]]; }

# Notes what a part of a long campaign came to: what it was, its figures, begin, command.
note() {
    printf -- '- %s: %s, %s s, %s, commit %s, `%s`\n' "$1" "$2" "$((SECONDS - $3))" \
        "$(date -u +%F)" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$4" |
        tee -a "$report"
}

# Worlds of half an hour in batches of 200 a processor, with seeds from $1 on. Traces of
# worlds that broke a promise are kept beside the report.
year() {
    local seed=$1 left=$((hours * 2)) each part begun command job
    while [ "$left" -gt 0 ]; do
        begun=$SECONDS
        local seeds=() pids=()
        for ((job = 0; job < jobs && left > 0; job++)); do
            each=$((left < 200 ? left : 200))
            part=$scratch/$seed
            target/release/mapleaf-sim --seed "$seed" --runs "$each" --hours 0.5 >"$part" &
            pids+=("$!")
            seeds+=("$seed $each")
            seed=$((seed + each))
            left=$((left - each))
        done
        for job in "${!pids[@]}"; do
            read -r part each <<<"${seeds[job]}"
            command="mapleaf-sim --seed $part --runs $each --hours 0.5"
            if ! wait "${pids[job]}"; then
                failed=1
                cp "$scratch/$part" "$report.$part.trace"
                tail -n 60 "$scratch/$part" >&2
            fi
            note 'simulated' "$(tail -n 1 "$scratch/$part"); go on with seed $seed" "$begun" "$command"
            rm -f "$scratch/$part"
        done
    done
}

# Images of power loss in batches of a million, with seeds of histories from $1 on.
power_losses() {
    local seed=$1 left=$images each begun command
    while [ "$left" -gt 0 ]; do
        begun=$SECONDS
        each=$((left < 1000000 ? left : 1000000))
        command="mapleaf-sim images --seed $seed --images $each --jobs $jobs"
        # A history gives 200 images.
        seed=$((seed + (each + 199) / 200))
        left=$((left - each))
        # In the background, so that a signal does not have to wait for it.
        # shellcheck disable=SC2086
        target/release/$command >"$log" &
        if ! wait "$!"; then
            failed=1
            cat "$log" >&2
            cat "$log" >>"$report"
        fi
        note 'power losses' "$(tail -n 1 "$log"); go on with seed $seed" "$begun" "$command"
    done
}

echo "seed $MAPLEAF_SEED, report $report"
if asked cuts; then campaign cuts:: "MAPLEAF_CUTS=$MAPLEAF_CUTS"; fi
if asked full; then campaign full:: ''; fi
if asked second; then campaign kills::a_second "MAPLEAF_SECONDS=$MAPLEAF_SECONDS"; fi
if asked reads; then campaign reads:: "MAPLEAF_READS=$MAPLEAF_READS" tree_engine; fi
if asked kills; then kills "$MAPLEAF_SEED"; fi
if asked mutants; then campaign mutants_keep "MAPLEAF_RUNS=$MAPLEAF_RUNS" corpus checked; fi
if asked files; then files; fi
if asked loops; then campaign loops:: "MAPLEAF_STEADY=$MAPLEAF_STEADY" steady; fi
if asked year || asked images; then cargo build --locked --release --bin mapleaf-sim; fi
if asked year; then year "$MAPLEAF_SEED"; fi
if asked images; then power_losses "$MAPLEAF_SEED"; fi
exit "$failed"
