# Sourced by cli_*.sh. PARE names the program; each script works in a folder of its own, removed at
# the end.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${PARE:?names the program}" "${PYTHON:=python3}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() {
    printf 'FAIL  %s\n' "$*"
    failures=$((failures + 1))
}

# make KIND FILE [VALUE...]: a checkpoint, sound or bad (make.py says which kinds).
make() {
    "$PYTHON" "$here/make.py" "$@" || exit 1
}

# expect EXIT REGEX COMMAND...: the exit code, and REGEX somewhere in what is said (either stream).
expect() {
    local code=$1 regex=$2 got
    shift 2
    "$@" >stdout.txt 2>stderr.txt
    got=$?
    if [ "$got" -ne "$code" ]; then
        fail "$* : exit $got, wanted $code: $(tail -n 3 stderr.txt)"
    elif ! cat stdout.txt stderr.txt | grep -qE -- "$regex"; then
        fail "$* : said '$(cat stdout.txt stderr.txt | tail -n 5)', wanted /$regex/"
    else
        printf 'ok    %s -> %s\n' "${*#"$PARE"}" "$(tail -n 1 stderr.txt | cut -c1-150)"
    fi
}

# refuse EXIT REGEX COMMAND...: as expect; the complaint is one sentence on stderr, nothing is on
# stdout and nothing lies under the name "out".
refuse() {
    rm -rf out out.*
    expect "$@"
    [ ! -s stdout.txt ] || fail "${*:3} : a refusal wrote to stdout: $(head -n 2 stdout.txt)"
    [ "$(grep -c . stderr.txt)" -eq 1 ] || fail "${*:3} : not one sentence: $(cat stderr.txt)"
    local left
    for left in out out.safetensors out.h5; do
        [ ! -e "$left" ] || fail "${*:3} : left $left behind"
    done
}

# Call last.
finish() {
    [ "$failures" -eq 0 ] || {
        echo "$failures failed"
        exit 1
    }
    exit 0
}
