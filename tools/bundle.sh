#!/usr/bin/env bash
# Builds pare with CUDA and makes a directory that runs on a machine with a GPU that has only
# NVIDIA's driver and the CUDA libraries (cuBLASLt, cuSOLVER, cuDNN; PyTorch brings them too): the
# program, its tests and benchmarks, and every other library they need.
#   tools/bundle.sh DIRECTORY [BUILD_DIRECTORY]     CUDAARCHS=90-real: for one kind of device alone
# Then, there:
#   DIRECTORY/run tests          the tests of the label gpu
#   DIRECTORY/run bench          every op's large rows, as CSV
#   DIRECTORY/run pare ...       the program
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
build=${2:-build/bundle}

cmake --preset cuda -B "$build" -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON \
    -DCMAKE_INSTALL_RPATH='$ORIGIN/../lib' -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags \
    >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
targets=(pare_cli pare_bench_ops)
for source in tests/gpu/test_*.c; do
    targets+=("$(basename "$source" .c)")
done
cmake --build "$build" -j "${JOBS:-$(nproc)}" --target "${targets[@]}" >>"$build.log" 2>&1 ||
    { grep -A20 -E 'error|FAILED' "$build.log" || tail -n 40 "$build.log"; exit 1; }

rm -rf "${out:?}/bin" "${out:?}/lib" "${out:?}/tests" "${out:?}/run"
mkdir -p "$out/bin" "$out/lib" "$out/tests/gpu" "$out/tests/cli"
cp "$build/pare" "$build/bench/pare_bench_ops" "$out/bin/"
for source in tests/gpu/test_*.c; do
    cp "$build/tests/$(basename "$source" .c)" "$out/bin/"
done
cp tests/gpu/*.sh "$out/tests/gpu/"
cp tests/cli/lib.sh tests/cli/make.py "$out/tests/cli/"
git rev-parse --short HEAD >"$out/commit" 2>/dev/null || echo unknown >"$out/commit"

# Every library but NVIDIA's (the machine's own fit its driver; NCCL, which few have, fits any) and
# those of the C library.
for program in "$out"/bin/*; do
    ldd "$program" | awk '$3 ~ /^\// { print $3 }'
done | sort -u | while read -r library; do
    case $(basename "$library") in
    libc.so* | libm.so* | libpthread.so* | libdl.so* | librt.so* | libresolv.so* | ld-linux*) ;;
    libcu* | libnv*) ;;
    *) cp -L "$library" "$out/lib/" ;;
    esac
done

strip --strip-unneeded "$out"/bin/* "$out"/lib/*

cat >"$out/run" <<'RUN'
#!/usr/bin/env bash
# run tests | bench [ARGUMENT...] | PROGRAM [ARGUMENT...]: see tools/bundle.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# NVIDIA's libraries: where the loader finds them, in a toolkit, or in Python's packages.
folders=$(ls -d /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib 2>/dev/null || true)
for python in python3 python; do
    command -v "$python" >/dev/null || continue
    folders+=$'\n'$("$python" - <<'PY' 2>/dev/null || true
import glob, site, sys
for folder in dict.fromkeys(site.getsitepackages() + sys.path):
    print("\n".join(sorted(glob.glob(folder + "/nvidia/*/lib"))))
PY
)
done
LD_LIBRARY_PATH=$(printf '%s\n' "${LD_LIBRARY_PATH:-}" "$here/lib" $folders | paste -sd: -)
export LD_LIBRARY_PATH

case ${1:-} in
tests)
    status=0
    report() { # NAME COMMAND...
        local name=$1 result=0
        shift
        "$@" >"$here/$name.log" 2>&1 || result=$?
        case $result in
        0) echo "passed   $name" ;;
        77) echo "skipped  $name: $(tail -n 1 "$here/$name.log")" ;;
        *) echo "FAILED   $name ($result)"; tail -n 40 "$here/$name.log"; status=1 ;;
        esac
    }
    for program in "$here"/bin/test_*; do
        report "$(basename "$program")" "$program"
    done
    for script in "$here"/tests/gpu/e2e_*.sh; do
        [ ! -e "$script" ] || PARE=$here/bin/pare \
            report "$(basename "$script" .sh)" bash "$script"
    done
    [ -n "${NO_SANITIZER:-}" ] || for tool in memcheck racecheck initcheck; do
        for program in "$here"/bin/test_*; do
            report "$(basename "$program")_$tool" \
                bash "$here/tests/gpu/sanitize.sh" "$tool" "$program"
        done
    done
    exit $status
    ;;
bench)
    shift
    echo "# commit $(cat "$here/commit"), $(date -I)"
    "$here/bin/pare_bench_ops" --device cuda --csv "$@"
    "$here/bin/pare_bench_ops" --device cuda --csv --nn "$@"
    "$here/bin/pare_bench_ops" --device cuda --csv --calib "$@"
    ;;
"") sed -n '2p' "$0" >&2; exit 2 ;;
*)
    program=$1
    shift
    exec "$here/bin/$program" "$@"
    ;;
esac
RUN
chmod +x "$out/run"
echo "$out: $(du -sh "$out" | cut -f1), commit $(cat "$out/commit")"
