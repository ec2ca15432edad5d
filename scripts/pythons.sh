#!/bin/sh
# Runs the unit tests on the other supported versions of Python that this machine has.
set -eu
ran=0
for version in 3.12 3.13 3.14; do
  python=$(command -v "python$version" || true)
  # pyenv puts a shim for every version on the path, also for those it cannot start; ask it for the real one.
  if [ -n "$python" ] && ! "$python" -c '' 2>/dev/null; then
    python=$(ls "$(pyenv root)"/versions/"$version".*/bin/python 2>/dev/null | tail -n 1 || true)
  fi
  [ -n "$python" ] || { echo "Python $version: not installed"; continue; }
  echo "Python $version: $python"
  "$python" -m venv ".venv-$version"
  ".venv-$version/bin/pip" install -q --upgrade "pip>=25.1"
  ".venv-$version/bin/pip" install -q -e '.[demo,httpx2,otel]' --group test
  ".venv-$version/bin/pytest" -q -n 2 --ignore=tests/e2e
  ran=$((ran + 1))
done
[ "$ran" -gt 0 ] || { echo "No other supported Python was found."; exit 1; }
