# Sourced by tools/test.sh and tools/quickstart.sh: installs missing packages of Debian 12 or Ubuntu
# 24.04.

# What the program is built with, and what its tests need beside it.
PARE_BUILD_PACKAGES="build-essential cmake ninja-build pkg-config libhdf5-dev libjansson-dev
    libyaml-dev libxxhash-dev libdnnl-dev zlib1g-dev libopenmpi-dev"
PARE_TEST_PACKAGES="libcmocka-dev openmpi-bin gnuplot-nox clang-format-14 python3 python3-venv
    ca-certificates"

# install_packages NAME...: asks apt for those that are missing, as root or through sudo; says
# which.
install_packages() {
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "Neither Debian nor Ubuntu: nothing is installed. Needed, by Debian's names: $*" >&2
        return 0
    fi
    local missing=() name sudo=()
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' ||
            missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "Installing: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "Neither root nor sudo: please install them yourself, then run this again." >&2
            return 1
        }
        sudo=(sudo)
    fi
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
