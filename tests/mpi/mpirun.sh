#!/usr/bin/env bash
# mpirun.sh PROCESSES COMMAND...: the command as so many processes of this machine, however many
# processors it has. Skips (77) where mpirun is not.
# mpirun.sh --failure PROCESSES PROGRAM FAILURE: every process has to say that it saw the failure,
# whatever the end of the job; of `kill` the job has to end within seconds, and badly.
set -euo pipefail
command -v mpirun >/dev/null || { echo "mpirun is not installed"; exit 77; }
failure=
if [ "$1" = --failure ]; then
    failure=$4
    shift
fi
processes=$1
shift

options=(-n "$processes" --oversubscribe --bind-to none)
[ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
# Copies between processes that a container may forbid are not tried; files of the session lie under
# a short path (they are sockets); what MPI itself leaves behind is no leak of ours.
export OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TMPDIR=/tmp
export CMOCKA_TEST_ABORT=1 # the others would wait for a rank whose test has failed
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0"

[ -n "$failure" ] || exec mpirun "${options[@]}" "$@"
status=0
begin=$(date +%s)
said=$(mpirun "${options[@]}" "$@") || status=$?
seconds=$(($(date +%s) - begin))
echo "$said"
echo "ended with $status after $seconds seconds"
[ "$(grep -c ' saw it$' <<<"$said")" -ge "$processes" ] || exit 1
[ "$failure" != kill ] || [ "$status" -ne 0 ] || exit 1
[ "$seconds" -le $([ "$failure" = kill ] && echo 10 || echo 20) ]
