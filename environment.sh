#!/bin/sh
# environment.sh FOLDER WHAT...: makes a Python environment and has pip install this into it.
# environment.sh FOLDER: exits with 0 if the environment is whole.
#
# An environment is whole in the checkout and with the Python that it was made for. FOLDER/whole is
# written last and names them. An environment that is not whole is made again.
set -eu
folder=$1
shift

fail() {
  echo "$*" >&2
  exit 1
}

made_for() { # a Python, unless PYTHON names another
  echo "$PWD, Python $("${PYTHON:-$1}" -c 'import sys; print(sys.version)')"
}

is_whole() {
  [ -x "$folder/bin/python" ] &&
    [ "$(cat "$folder/whole" 2>/dev/null)" = "$(made_for "$folder/bin/python" 2>/dev/null)" ]
}

[ $# -gt 0 ] || { is_whole && exit 0 || exit 1; }

if ! is_whole; then
  python=${PYTHON:-python3}
  case $(uname) in
    Darwin) get="brew install python"; with_pip=$get; newer="$get, or " ;; # macOS has 3.9
    *) get="apt install python3"; with_pip=$get-venv; newer="" ;;
  esac
  can() { "$python" -c "$1" >/dev/null 2>&1; }
  [ -w . ] || fail "this folder can't be written: copy the checkout to one that can be"
  command -v "$python" >/dev/null || fail "$python is missing: $get"
  can 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$python is too old: ${newer}name a Python 3.10 or later, as in make PYTHON=python3.12"
  can 'import venv' || fail "$python has no venv module: $with_pip"
  can 'import ensurepip' || can 'import pip' || fail "$python has no pip: $with_pip"
  rm -rf "$folder"
  if can 'import ensurepip'; then
    "$python" -m venv "$folder"
  else
    # Debian has ensurepip in python3-venv. Without it, Python's own pip installs one.
    "$python" -m venv --without-pip "$folder"
    packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -m pip install -q --disable-pip-version-check --target "$packages" pip
  fi
fi

echo "installing into $folder: this takes up to a minute"
rm -f "$folder/whole"
# (The warning that is ignored only says that an editable install is one.)
PYTHONWARNINGS=ignore "$folder/bin/python" -m pip install -q --disable-pip-version-check "$@"
made_for "$folder/bin/python" >"$folder/whole"
