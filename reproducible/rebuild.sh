#!/usr/bin/env bash
# Repeat a build of this checkout and say whether it is the expected one.
#
#   reproducible/rebuild.sh RECIPE [OPTIONS OF assay build]
#       builds reproducible/RECIPE with the inputs of its expected.json and compares. Exit 0: the same. Exit 1: another,
#       and what differs is printed. Nothing is published, and no key is needed.
#
#   reproducible/rebuild.sh RELEASE.json --key FILE --log URL --policy FILE [OPTIONS OF assay rebuild]
#       repeats a published release and publishes the verdict, whatever it is.
#
#   reproducible/rebuild.sh --write-expected RECIPE [OPTIONS OF assay build]
#       after a change of what is measured: builds, and makes the result the expected one.
#
# It needs bash and Python 3.11 or newer; the environment is made on the first run. ASSAY names another `assay` command, and
# OUT keeps the build in that folder.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source_root="$(dirname "$here")"

usage() {
  sed -n '/^# Repeat/,/^set /s/^#\( \|$\)//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

write=0
if [ "${1:-}" = --write-expected ]; then
  write=1
  shift
fi
[ $# -ge 1 ] || usage
what="$1"
shift
case "$what" in
  -*) usage ;;
esac

if [ -z "${ASSAY:-}" ]; then
  make -C "$source_root" env >&2
  ASSAY="$source_root/.venv/bin/assay"
fi
python="$(dirname "$ASSAY")/python"
[ -x "$python" ] || python=python3

if [ -f "$what" ] && [ "$write" = 0 ]; then
  exec "$ASSAY" rebuild "$what" --source "$source_root" "$@"
fi

recipe="$here/$what"
expected="$recipe/expected.json"
if [ ! -f "$recipe/recipe.toml" ]; then
  echo "rebuild.sh: $what is neither a recipe of $here nor a release file" >&2
  exit 2
fi
if [ ! -f "$expected" ] && [ "$write" = 0 ]; then
  echo "rebuild.sh: $what has no expected.json to compare with; README.md says why" >&2
  exit 3
fi

scratch="$(mktemp -d)"
trap 'chmod -R u+w "$scratch" && rm -rf "$scratch"' EXIT
out="${OUT:-$scratch/out}"

inputs=()
if [ -f "$expected" ]; then
  # The inputs are part of what is expected: their texts are in the record.
  "$python" - "$expected" "$scratch" <<'PYTHON'
import json, pathlib, sys
inputs = json.loads(pathlib.Path(sys.argv[1]).read_bytes())["inputs"]
for name in ("ca", "log_policy"):
    pathlib.Path(sys.argv[2], name).write_bytes(inputs[name].encode())
PYTHON
  inputs=(--log-policy "$scratch/log_policy" --ca "$scratch/ca")
fi
"$ASSAY" build "$recipe" --source "$source_root" --out "$out" "${inputs[@]}" "$@"

if [ "$write" = 1 ]; then
  cp "$out/build.json" "$expected"
  chmod 644 "$expected"
  echo "wrote $expected"
  exit 0
fi

"$python" - "$expected" "$out/build.json" <<'PYTHON'
import json, pathlib, sys
expected, found = (json.loads(pathlib.Path(path).read_bytes()) for path in sys.argv[1:])
files = [{item["path"]: item["sha256"] for item in record["trusted_files"]} for record in (expected, found)]
for path in sorted(files[0].keys() | files[1].keys()):
    if files[0].get(path) != files[1].get(path):
        print(f"differs: {path}: expected {files[0].get(path)}, found {files[1].get(path)}")
for name in sorted(expected.keys() | found.keys()):
    if name != "trusted_files" and expected.get(name) != found.get(name):
        print(f"differs: {name}: expected {expected.get(name)}, found {found.get(name)}")
if expected != found:
    print("DIFFERENT")
    sys.exit(1)
print(f"REPRODUCED {found['mr_enclave']}")
PYTHON
