#!/usr/bin/env bash
# pytest-xdist's `--dist loadgroup` spreads the tests of one `xdist_group` over several processes, and says nothing.
#
# Guess:   with `pytest -n 2 --dist loadgroup`, tests marked `xdist_group("one")` run in one worker process.
# Instead: with pytest 9.2.0 they run in several. xdist 3.8.0 tells its scheduler of a group by writing
#          `item._nodeid = "...@one"`; pytest 9.2 computes `Item.nodeid` from another attribute, so the suffix is never
#          seen. The option is taken, the marker is known, nothing warns. With pytest 8.4.2 the groups hold.
# Matters: tests that share a server, or that must not run side by side, do run side by side; module fixtures are made
#          once a process. Darkroom deals out files with a scheduler of its own (`pytest_xdist_make_scheduler`).
# Source:  pytest-xdist 3.8.0, xdist/remote.py, pytest_collection_modifyitems; pytest 9.2.0, _pytest/nodes.py, Node.nodeid.
# Needs:   python3. Installs into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >test_groups.py <<'PY'
import os, time, pytest
@pytest.mark.parametrize("number", range(12))
@pytest.mark.xdist_group("one")
def test_one(number):
    time.sleep(0.1)
    with open("workers", "a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], file=file)
PY
workers_with() {
    python3 -m venv "venv-$1"
    "venv-$1/bin/pip" install --quiet --disable-pip-version-check "pytest==$1" pytest-xdist==3.8.0
    rm -f workers
    "venv-$1/bin/python" -m pytest -q -n 2 --dist loadgroup -p no:cacheprovider >"log-$1" 2>&1 || { cat "log-$1"; exit 2; }
    sort -u workers | wc -l
}
old=$(workers_with 8.4.2)
new=$(workers_with 9.2.0)
echo "pytest-xdist 3.8.0, 12 tests of one group, -n 2 --dist loadgroup:"
echo "  pytest 8.4.2: in $old process(es)"
echo "  pytest 9.2.0: in $new process(es)"
[ "$old" -eq 1 ] && [ "$new" -eq 2 ]
