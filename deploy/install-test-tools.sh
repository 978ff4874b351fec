#!/usr/bin/env bash
# Installs what the system tests need beside Python: mosquitto and Chromium, from Debian.
# Where it may not (no root, no apt), it says plainly what is missing and what that skips.
set -euo pipefail

missing=()
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || missing+=(mosquitto)
command -v chromium >/dev/null || missing+=(chromium)
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "installing for the system tests: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  # The tests start their own broker on a port of their own.
  if command -v systemctl >/dev/null; then systemctl disable --now mosquitto 2>/dev/null || true; fi
  exit 0
fi

echo "not installed and not installable here: ${missing[*]}"
echo "run as root: apt-get install ${missing[*]}"
if [ "${CI:-}" = true ]; then
  echo "in CI nothing may be skipped"
  exit 1
fi
echo "the tests that need them say that they are skipped"
