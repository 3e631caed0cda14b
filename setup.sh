#!/bin/sh
# Make .venv and install everything pinned into it; `make` calls this first, and it is done in an instant where nothing
# is to do. A Python from 3.11 to 3.14, or uv, is all that must be there. Where uv is, it installs, in less time than pip.
#
#   PYTHON=python3.12                    the Python to take, in place of the newest
#   TORCH='torch --index-url <index>'    another build of PyTorch than pip's default
#   INSTALLER=pip                        pip, also where uv is
#
# Whatever goes wrong is said in a line, with exit status 2, and leaves no half environment.
set -u
cd "$(dirname "$0")" || exit 2
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0 PYTHONNOUSERSITE=1
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX VIRTUAL_ENV UV_PYTHON UV_SYSTEM_PYTHON UV_CONSTRAINT
PYTHON=${PYTHON:-} TORCH=${TORCH:-} INSTALLER=${INSTALLER:-}

ENV=.venv
DONE=$ENV/installed # what is installed, and where; written last
BEGUN=$ENV/begun    # the process that makes the environment; gone once it is complete
LOG=$(mktemp) || exit 2

# What this environment must be to be left alone: for this folder and these files.
state() { printf '%s %s\n' "$(pwd -P)" "$(cat pyproject.toml constraints.txt | cksum)"; }

say() { printf 'setup: %s\n' "$*"; }
refuse() {
    printf 'setup: %s\n' "$*" >&2
    exit 2
}

[ -n "$INSTALLER" ] || { command -v uv >/dev/null 2>&1 && INSTALLER=uv; } || INSTALLER=pip
MODULES='ctypes ssl zlib' # that the libraries need of a Python
[ $INSTALLER = uv ] || MODULES="$MODULES ensurepip venv"

# Why a Python can't be used, empty where it can; it runs in any Python from 2.7 on. Its arguments are modules.
FITNESS='
import sys
lacking = []
for name in sorted(sys.argv[1:]):
    try:
        __import__(name)
    except ImportError:
        lacking.append(name)
version = "%d.%d" % sys.version_info[:2]
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    print("is Python " + version)
elif sys.implementation.name != "cpython":
    print("is " + sys.implementation.name)
elif "t" in sys.abiflags:
    print("is free-threaded, for which libraries are missing")
elif lacking:
    print("lacks " + ", ".join(lacking))
'

# Choose the interpreter: PYTHON if given, else the newest that fits; empty where none does, with the reasons in `unfit`.
find_python() {
    found='' unfit=''
    if [ -n "$PYTHON" ]; then set -- "$PYTHON"; else set -- python3.14 python3.13 python3.12 python3.11 python3 python; fi
    for name in "$@"; do
        command -v "$name" >/dev/null 2>&1 || continue
        # shellcheck disable=SC2086  # several words
        reason=$("$name" -c "$FITNESS" $MODULES 2>/dev/null) || continue # a stub that only looks like a Python
        if [ -z "$reason" ]; then
            found=$name
            return
        fi
        unfit="$unfit${unfit:+, }$name $reason"
    done
}

no_python() {
    case $unfit in
    *lacks*venv* | *lacks*ensurepip*)
        refuse "$unfit. Install what is missing (Debian, Ubuntu: apt install python3-venv), then run make again." ;;
    esac
    [ -z "$PYTHON" ] || refuse "PYTHON=$PYTHON: ${unfit:-no Python that runs}. Python 3.11 to 3.14 is needed."
    refuse "Python 3.11 to 3.14 is needed; ${unfit:-none is there}. Install one (Debian, Ubuntu: apt install" \
        "python3.12-venv; macOS: brew install python@3.13) or uv, then run make again."
}

# What is wrong with the environment that is there; empty where it can be used as it is.
fault() {
    [ -f $ENV/pyvenv.cfg ] || { echo "is no virtual environment" && return; }
    [ ! -f $BEGUN ] || { echo "was left half made" && return; }
    reason=$($ENV/bin/python -c "$FITNESS" 2>/dev/null) || { echo "has a Python that doesn't run" && return; }
    [ -z "$reason" ] || { echo "$reason" && return; }
    if [ -f $DONE ] && [ "$(sed 's/ [0-9]* [0-9]*$//' $DONE)" != "$(pwd -P)" ] && [ -s $DONE ]; then
        echo "was made in another folder" && return
    fi
    [ -n "$PYTHON" ] || return 0
    is=$($ENV/bin/python -c 'import sys; print(sys.version_info[:2])')
    [ "$is" = "$("$PYTHON" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null)" ] || echo "is not $PYTHON's"
}

# Make an empty environment, in place of one of ours that can't be used.
make_environment() {
    if [ -e $ENV ] || [ -L $ENV ]; then
        [ -f $DONE ] || [ -f $BEGUN ] || refuse "$ENV $1, and something else made it. Move it away, then run make again."
        say "$ENV $1: making it again"
        rm -rf $ENV || refuse "$ENV can't be deleted. Delete it, then run make again."
    fi
    mkdir $ENV || refuse "$(pwd) can't be written. Make a clone in a folder of yours."
    made=yes
    echo $$ >$BEGUN
    if [ -n "$found" ] && [ $INSTALLER = uv ]; then
        uv venv --quiet --allow-existing --seed --python "$(command -v "$found")" $ENV >"$LOG" 2>&1 ||
            refuse "uv can't make a virtual environment: $(tail -1 "$LOG"). Take pip: make setup INSTALLER=pip"
    elif [ -n "$found" ]; then
        "$found" -m venv $ENV >"$LOG" 2>&1 || refuse "$found can't make a virtual environment: $(tail -1 "$LOG")"
    else
        say "no Python from 3.11 to 3.14 here: uv provides one"
        uv venv --quiet --allow-existing --seed --python '>=3.11,<3.15' $ENV >"$LOG" 2>&1 ||
            refuse "uv can't provide a Python: $(tail -1 "$LOG")"
    fi
}

# uv doesn't read pip's settings, such as the index of a company: hand on those that say where packages come from.
pip_setting() { # the value of one, by a Python; the environment's is listed before a file's
    "$2" -m pip config list 2>/dev/null | sed -n "s/^[^=]*[.]$1='\(.*\)'\$/\1/p" | sed 's/\\n/ /g; q'
}
share_settings() { # by a Python, which need not have pip
    [ $INSTALLER = uv ] || return 0
    index=$(pip_setting index-url "$1") more=$(pip_setting extra-index-url "$1")
    links=$(pip_setting find-links "$1") certificate=$(pip_setting cert "$1")
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    [ -z "$more" ] || export UV_EXTRA_INDEX_URL="${UV_EXTRA_INDEX_URL:-$more}" # all indexes alike, as pip has it
    [ -z "$more" ] || export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
    [ -z "$links" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$links}"
    [ -z "$certificate" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificate}"
}

# What `install_packages` runs, by the installer.
installed_by_uv() { uv pip install --python $ENV/bin/python --constraint constraints.txt "$@"; }
installed_by_pip() { $ENV/bin/python -m pip install --constraint constraints.txt "$@"; }

# Install, showing what is downloaded and installed in a line each; the whole of what is said is in the log.
install_packages() {
    {
        "installed_by_$INSTALLER" "$@" 2>&1
        echo "$INSTALLER ended with $?"
    } | tee "$LOG" | awk '
        /^ *Downloading [^ ]+ \([0-9.]+[MG]iB\)$/ {
            size = substr($3, 2) + 0
            if ($3 ~ /GiB/) size *= 1024
            if (size >= 5) { printf "  %s (%d MB)\n", $2, size * 1.048576; fflush() }
        }
        /^Resolved [0-9]+ package/ { printf "  %d packages looked up\n", $2; fflush() }
        /^Installed [0-9]+ package/ { printf "  installed %d packages\n", $2; fflush() }
        /^ *(error:|×|╰─▶|├─▶|│)/ { print "  " substr($0, 1, 300); fflush() }
        /^ *(Downloading|Using cached) .*MB\)$/ && !/metadata/ {
            size = $(NF - 1); sub(/^\(/, "", size)
            name = $0; sub(/^ *(Downloading|Using cached) /, "", name); sub(/ \(.*$/, "", name); sub(/^.*\//, "", name)
            split(name, part, "-")
            if (size >= 5) { printf "  %s %s (%d MB)\n", part[1], part[2], size; fflush() }
        }
        /^Collecting / && ++looked % 40 == 0 { printf "  %d packages looked up\n", looked; fflush() }
        /^Installing collected packages/ { printf "  installing %d packages\n", NF - 3; fflush() }
        /^ *ERROR:/ { print "  " substr($0, 1, 300); fflush() }'
    status=$(sed -n "s/^$INSTALLER ended with //p" "$LOG" | tail -1)
    return "${status:-1}"
}

# What stopped the installer, in words, and what to do.
NO_BUILD='a package has no build for this machine'
diagnosis() {
    if grep -Eqi 'no space left|disk quota' "$LOG"; then
        echo "the disk is full. Free some space (8 GB with CUDA's PyTorch, 3 GB with the CPU build)"
    elif grep -Eqi 'connection ?(error|broken)|failed to establish|timed out|name resolution|incompleteread|proxyerror|failed to fetch|error sending request|dns error' \
        "$LOG"
    then
        echo "the package index can't be reached. See to the network and to pip's settings (pip config list)"
    elif grep -Eqi "(gcc|cc|clang|[gc]\+\+)' failed|'([^']*/)?(gcc|cc|clang)'$|no C compiler|unknown compiler" "$LOG"; then
        echo "a package must be compiled, and there is no C compiler. Install one (Debian, Ubuntu: apt install" \
            "build-essential; macOS: xcode-select --install)"
    elif grep -Eq 'No matching distribution|ResolutionImpossible|No solution found|no (usable )?wheels' "$LOG"; then
        echo "$NO_BUILD (see above). Another Python may help: make setup PYTHON=python3.12"
    else
        [ $INSTALLER = pip ] || hint=". pip may tell more: make setup INSTALLER=pip"
        echo "$INSTALLER failed (see above)${hint:-}"
    fi
}

announce() {
    say "installing for $($ENV/bin/python -c 'import platform; print("Python", platform.python_version())')," \
        "which takes some minutes"
    if [ "$(uname -s)" = Linux ] && [ -z "$TORCH" ] && ! $ENV/bin/python -c 'import torch' 2>/dev/null; then
        say "pip's PyTorch for Linux may bring CUDA: gigabytes to download, 6 GB on disk. Without an NVIDIA GPU take"
        say "the small CPU build: Ctrl-C, then make setup TORCH='torch --index-url <index>' with the index that"
        say "pytorch.org/get-started names for pip and CPU"
    fi
}

# Whatever ends this script early: what it made goes with it, what pip downloaded stays in pip's cache.
made=no
give_up() {
    code=$?
    trap - EXIT INT TERM HUP
    rm -f "$LOG"
    [ "$made" = no ] || rm -rf $ENV
    exit "$code"
}
interrupted() {
    say "interrupted; $ENV is as it was before, downloads are kept: run make again"
    exit 130
}

trap give_up EXIT
trap interrupted INT TERM HUP
case $INSTALLER in uv | pip) ;; *) refuse "INSTALLER=$INSTALLER is not known. Allowed: uv, pip." ;; esac
[ -f $DONE ] && [ -z "$TORCH" ] && [ "$(cat $DONE)" = "$(state)" ] && [ -z "$(fault)" ] && exit 0

case $(pwd) in *:*) refuse "the folder's name, $(pwd), has a colon, which no virtual environment can have. Rename it." ;; esac
[ -w . ] || refuse "$(pwd) can't be written. Make a clone in a folder of yours."
if [ -f $BEGUN ] && pid=$(cat $BEGUN) && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then
    refuse "another make (process $pid) is making $ENV. Wait for it, or delete $ENV if it does not."
fi
problem=$(fault)
if [ -n "$problem" ]; then
    find_python
    [ -n "$found" ] || { [ -z "$PYTHON" ] && command -v uv >/dev/null 2>&1; } || no_python
    [ -z "$found" ] || share_settings "$found"
    make_environment "$problem"
fi
[ $INSTALLER = uv ] || $ENV/bin/python -m pip --version >/dev/null 2>&1 ||
    $ENV/bin/python -m ensurepip >/dev/null 2>&1 ||
    refuse "$ENV has no pip and can't get one. Move it away, then run make again."
share_settings $ENV/bin/python
announce
# shellcheck disable=SC2086  # TORCH is a package and pip's options
[ -z "$TORCH" ] || install_packages $TORCH || refuse "$(diagnosis), then run make again."
install_packages --editable '.[dev]' || refuse "$(diagnosis), then run make again."
install_packages --only-binary :all: bitsandbytes || {
    why=$(diagnosis)
    [ "$why" != "${why#"$NO_BUILD"}" ] || refuse "$why, then run make again."
    say "bitsandbytes has no build for this machine: all works but quantization=nf4 and int8"
}
state >$DONE
rm -f $BEGUN
made=no
say "done"
