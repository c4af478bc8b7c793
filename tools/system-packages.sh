#!/usr/bin/env bash
# Install those of some Debian packages that are missing: as root, where there is apt-get.
#
#     tools/system-packages.sh redis-server chromium libgomp1
#
# Elsewhere it says what to install and succeeds, unless REQUIRE_SYSTEM_PACKAGES is set: then it
# fails if one is still missing.
set -euo pipefail

have() {
    case $1 in
    chromium) command -v chromium || command -v chromium-browser || command -v google-chrome ;;
    postgresql) command -v initdb || ls /usr/lib/postgresql/*/bin/initdb ;;
    default-jre-headless) command -v java ;;
    mariadb-server) command -v mariadbd ;;
    libgomp1) ldconfig -p | grep -F libgomp.so.1 ;;
    python*-venv) "${1%-venv}" -c 'import ensurepip' ;;
    *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

missing() {
    for package; do
        have "$package" || echo "$package"
    done
}

mapfile -t lacking < <(missing "$@")
if ((${#lacking[@]})) && ((EUID == 0)) && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    echo "installing ${lacking[*]}"
    apt-get update -qq || true
    for package in "${lacking[@]}"; do # one by one: apt-get installs none where it does not know one
        apt-get install -y -qq --no-install-recommends "$package" || true
    done
    mapfile -t lacking < <(missing "$@")
fi
if ((${#lacking[@]})); then
    echo "missing: ${lacking[*]}. As root: apt-get install ${lacking[*]}" >&2
    [[ -z ${REQUIRE_SYSTEM_PACKAGES:-} ]]
fi
