# SPDX-License-Identifier: MPL-2.0
# shellcheck shell=bash
#
# What the demo and the development server share: a simulator and a Vault server with the plugin mounted, and a
# transcript of the commands typed at them. Sourced with the folder to work in, which holds all they write:
#
#     . scripts/lib.sh build/demo

here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
work=$root/$1
jobs_started=()

plugin=vault-plugin-secrets-marketplace
version=     # of the plugin, as it says itself
simulator=   # the simulator's address
VAULT_BIN=${VAULT_BIN:-}

note() { printf '%s\n' "$*" >&2; }

die() {
  note "$(basename "$0"): $*"
  exit 1
}

# --- starting and ending -------------------------------------------------------------------------------------------

# stop ends what was started, last first. Each has a process group of its own, so that a plugin whose server had to be
# killed goes with it.
stop() {
  local i pid
  trap '' HUP INT TERM # a second Ctrl-C must not leave the rest running
  for ((i = ${#jobs_started[@]} - 1; i >= 0; i--)); do
    pid=${jobs_started[i]}
    kill -TERM "$pid" 2>/dev/null || true
    for ((tries = 0; tries < 100; tries++)); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rm -f "$work/pid"
}

# background LOG COMMAND…: starts it in a process group of its own (the -m), out of reach of the terminal's Ctrl-C, so
# that stop decides the order.
background() {
  local log=$1
  shift
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  started=$!
  set +m
  jobs_started+=("$started")
}

# begin makes the folder, takes it, and sees to the end, however it comes.
begin() {
  local other
  if other=$(cat "$work/pid" 2>/dev/null) && kill -0 "$other" 2>/dev/null; then
    die "another one is running in ${work#"$root"/} (process $other)"
  fi
  rm -rf "$work"
  mkdir -p "$work/home" "$work/plugins"
  echo $$ >"$work/pid"
  trap stop EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

build_all() {
  note 'building the plugin and the simulator'
  make --no-print-directory --silent build
  VAULT_BIN=$(cd "$here" && "$root/scripts/vault") # there, because VAULT_BIN may be a relative path
  version=$("build/$plugin" -version)
}

# clean_environment keeps the caller's own Vault out of this: neither his address nor his token is used, and the
# command line writes no ~/.vault-token.
clean_environment() {
  local name
  for name in "${!VAULT_@}"; do
    [[ $name == VAULT_BIN ]] || unset "$name"
  done
  export HOME=$work/home
  export VAULT_CLI_NO_COLOR=1
}

start_simulator() {
  local ready=$work/simulator/ready.json
  background "$work/simulator.log" build/marketplace-simulator -listen 127.0.0.1:0 -dir "$work/simulator"
  for ((tries = 0; tries < 100; tries++)); do
    if grep -q '}$' "$ready" 2>/dev/null; then
      simulator=$(sed -E 's/.*"http":"([^"]+)".*/\1/' "$ready")
      return
    fi
    kill -0 "$started" 2>/dev/null || break
    sleep 0.1
  done
  die "the simulator does not start: $(cat "$work/simulator.log")"
}

# start_vault starts an unsealed server that keeps everything in memory. Vault cannot pick a free port by itself, so
# ports are tried until it gets one.
start_vault() {
  local port root_token
  cp "build/$plugin" "$work/plugins/$plugin-$("build/$plugin" -version)"
  printf 'plugin_directory = "%s"\n' "$work/plugins" >"$work/vault.hcl"
  root_token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  for ((attempt = 0; attempt < 10; attempt++)); do
    port=$((20000 + RANDOM % 10000))
    export VAULT_ADDR=http://127.0.0.1:$port VAULT_TOKEN=$root_token
    VAULT_DEV_ROOT_TOKEN_ID=$root_token background "$work/vault.log" "$VAULT_BIN" server -dev -dev-no-store-token \
      -dev-listen-address="127.0.0.1:$port" -config="$work/vault.hcl"
    vault_pid=$started
    if vault_ready; then return; fi
    grep -q 'address already in use' "$work/vault.log" || break
  done
  die "Vault does not start: $(tail -n 20 "$work/vault.log")"
}

vault_ready() {
  for ((tries = 0; tries < 150; tries++)); do
    sleep 0.2
    kill -0 "$started" 2>/dev/null || return 1
    if "$VAULT_BIN" token lookup >/dev/null 2>&1; then return; fi
  done
  return 1
}

# start: everything up to a server that knows nothing of the plugin yet.
start() {
  begin
  build_all
  clean_environment
  start_simulator
  start_vault
}

# --- the transcript ------------------------------------------------------------------------------------------------

vault() { "$VAULT_BIN" "$@"; }

# A fresh machine may have no curl. This one speaks as much HTTP as the transcript needs, over bash's own sockets:
# [-X method] [-H header] [-d body] url. As with --fail-with-body, an answer of 400 and above is a failure.
curl() {
  local method='' headers='' body='' url='' host answer
  while (($#)); do
    case $1 in
    -X) method=$2 && shift 2 ;;
    -H) headers+=$2$'\r\n' && shift 2 ;;
    -d) body=$2 method=${method:-POST} && shift 2 ;;
    *) url=${1#http://} && shift ;;
    esac
  done
  host=${url%%/*}
  exec 3<>"/dev/tcp/${host%:*}/${host##*:}"
  printf '%s /%s HTTP/1.0\r\nHost: %s\r\nContent-Length: %d\r\n%s\r\n%s' \
    "${method:-GET}" "${url#*/}" "$host" "${#body}" "$headers" "$body" >&3
  answer=$(tr -d '\r' <&3)
  exec 3>&-
  if [[ $answer == *$'\n\n'* ]]; then printf '%s\n' "${answer#*$'\n\n'}"; fi
  [[ $answer =~ ^HTTP/1\.[01]\ [123] ]]
}

# explain TEXT…: what comes next, and why.
explain() { printf '\n' && printf '# %s\n' "$@"; }

# type_in COMMAND: shows the command and runs that very text; its exit status is left in $status, what it said in
# $output. Access tokens are cut short where they are shown, and only there.
type_in() {
  printf '$ %s\n' "$1"
  status=0
  eval "$1" >"$work/output" 2>&1 || status=$?
  output=$(cat "$work/output")
  rm -f "$work/output"
  if [[ -n $output ]]; then
    printf '%s\n' "$output" | sed -E 's/^(access_token +.{8}).*/\1…/'
  fi
}

# run PATTERN COMMAND: a command that must succeed and say what matches PATTERN.
run() {
  type_in "$2"
  ((status == 0)) || wrong "that should have succeeded (exit status $status)"
  [[ $output =~ $1 ]] || wrong "that should have said: $1"
}

# refuse PATTERN COMMAND: a command that must fail, with what matches PATTERN.
refuse() {
  type_in "$2"
  ((status != 0)) || wrong 'that should have failed'
  [[ $output =~ $1 ]] || wrong "that should have said: $1"
}

wrong() { die "$*; the logs are in ${work#"$root"/}"; }

# value NAME: that row of the table in $output.
value() { awk -v name="$1" '$1 == name { print $2 }' <<<"$output"; }

# mount_plugin is how every operator begins.
mount_plugin() {
  explain 'Vault runs a plugin only if its checksum is the one it was registered with.'
  run '^$' "sha256=\$(sha256sum build/$plugin | cut -d' ' -f1)"
  run 'Registered plugin' "vault plugin register -sha256=\$sha256 -version=$version \\
    -command=$plugin-$version secret $plugin"
  run 'Enabled the' "vault secrets enable -path=marketplace $plugin"

  explain 'Token requests may not go to private addresses unless the mount says so; the simulator is on loopback.'
  run 'Success' 'vault write marketplace/settings allow_private_addresses=true'

  explain 'One configuration a marketplace: client credentials. With a real account, leave out token_url.' \
    'The credentials are tried before they are stored.'
  run 'Success' "vault write marketplace/config/kleinanzeigen \\
    client_id=demo-client client_secret=demo-secret \\
    token_url=$simulator/kleinanzeigen/v2/oidc/token"
}

# others: the marketplaces beside Kleinanzeigen, one a line: name, token endpoint, and the refresh endpoint of those that
# have one of their own.
others() {
  cat <<'EOF'
marktplaats accounts/oauth/token
2dehands accounts/oauth/token
2ememain accounts/oauth/token
accounda v1/token/ v1/token/refresh/
fuuffy v1/auth/token
winkelstraat api/oauth/v1/retailer/token api/oauth/v1/token
EOF
}

# configuring NAME TOKEN [REFRESH]: the command, as it is typed, that configures one of the others at the simulator.
configuring() {
  printf 'vault write marketplace/config/%s client_id=demo-client client_secret=demo-secret' "$1"
  printf ' \\\n    token_url=%s' "$simulator/$1/$2"
  if [[ -n ${3:-} ]]; then printf ' \\\n    refresh_url=%s' "$simulator/$1/$3"; fi
}
