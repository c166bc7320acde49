# SPDX-License-Identifier: MPL-2.0
# shellcheck shell=bash
#
# Functions that the demo and the development server share. They start a simulator and a Vault server with the plugin
# mounted, and print a transcript of the commands. Source this file with the folder for all their files:
#
#     . scripts/lib.sh build/demo

here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
work=$root/$1
jobs_started=()

plugin=vault-plugin-secrets-marketplace
version=     # the plugin's own version
simulator=   # the simulator's address
VAULT_BIN=${VAULT_BIN:-}

note() { printf '%s\n' "$*" >&2; }

die() {
  note "$(basename "$0"): $*"
  exit 1
}

# --- starting and stopping -----------------------------------------------------------------------------------------

# stop stops all jobs, the last one first. Each job has its own process group, so killing a Vault server also kills its
# plugins.
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

# background LOG COMMAND…: starts the command in its own process group (set -m). The terminal's Ctrl-C does not reach it,
# so stop decides the order.
background() {
  local log=$1
  shift
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  started=$!
  set +m
  jobs_started+=("$started")
}

# begin creates the folder, locks it, and makes every exit call stop.
begin() {
  local other
  if other=$(cat "$work/pid" 2>/dev/null) && kill -0 "$other" 2>/dev/null; then
    die "process $other already uses ${work#"$root"/}; stop it first"
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
  scripts/vault announce
  note 'building the plugin and the simulator'
  make --no-print-directory --silent build
  VAULT_BIN=$(cd "$here" && "$root/scripts/vault") # in the caller's folder, because VAULT_BIN may be relative
  version=$("build/$plugin" -version)
}

# clean_environment hides the caller's own Vault: its address and token are not used, and the command line writes no
# ~/.vault-token.
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
  die "the simulator did not start; its log: $(cat "$work/simulator.log")"
}

# start_vault starts an unsealed server that keeps everything in memory. Vault cannot pick a free port, so start_vault
# tries up to ten random ones.
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
  die "Vault did not start; the end of its log: $(tail -n 20 "$work/vault.log")"
}

vault_ready() {
  for ((tries = 0; tries < 150; tries++)); do
    sleep 0.2
    kill -0 "$started" 2>/dev/null || return 1
    if "$VAULT_BIN" token lookup >/dev/null 2>&1; then return; fi
  done
  return 1
}

# start builds and starts everything, but does not register the plugin yet.
start() {
  begin
  build_all
  clean_environment
  start_simulator
  start_vault
}

# --- the transcript ------------------------------------------------------------------------------------------------

vault() { "$VAULT_BIN" "$@"; }

# explain TEXT…: prints comment lines about the next commands.
explain() { printf '\n' && printf '# %s\n' "$@"; }

# type_in COMMAND: prints the command and runs exactly that text. Sets $status to its exit status and $output to its
# output. Shortens access tokens in the transcript, but not in $output.
type_in() {
  printf '$ %s\n' "$1"
  status=0
  eval "$1" >"$work/output" 2>&1 || status=$?
  output=$(cat "$work/output")
  rm -f "$work/output"
  if [[ -n $output ]]; then
    printf '%s\n' "$output" | sed -E 's/^(access_token +.{8}).*/\1…/; s/(Bearer .{8})[^] ]*/\1…/'
  fi
}

# run PATTERN COMMAND: runs a command that must succeed, with output that matches PATTERN.
run() {
  type_in "$2"
  ((status == 0)) || wrong "the command failed (exit status $status)"
  [[ $output =~ $1 ]] || wrong "the output does not match: $1"
}

# refuse PATTERN COMMAND: runs a command that must fail, with output that matches PATTERN.
refuse() {
  type_in "$2"
  ((status != 0)) || wrong 'the command succeeded, but it must fail'
  [[ $output =~ $1 ]] || wrong "the output does not match: $1"
}

wrong() { die "$*; see the logs in ${work#"$root"/}"; }

# value NAME: prints the value of that row of the table in $output.
value() { awk -v name="$1" '$1 == name { print $2 }' <<<"$output"; }

# mount_plugin registers, mounts and configures the plugin, as every operator does first.
mount_plugin() {
  explain 'Vault runs a plugin only if the registered checksum matches.'
  run '^$' "sha256=\$(sha256sum build/$plugin | cut -d' ' -f1)"
  run 'Registered plugin' "vault plugin register -sha256=\$sha256 -version=$version \\
    -command=$plugin-$version secret $plugin"
  run 'Enabled the' "vault secrets enable -path=marketplace $plugin"

  explain 'By default, token requests to private addresses are refused. The simulator is on loopback, so allow them.'
  run 'Success' 'vault write marketplace/settings allow_private_addresses=true'

  explain 'Each marketplace gets a config with the client credentials. With a real account, omit token_url.' \
    'The plugin verifies the credentials before it stores them.'
  run 'Success' "vault write marketplace/config/kleinanzeigen \\
    client_id=demo-client client_secret=demo-secret \\
    token_url=$simulator/kleinanzeigen/v2/oidc/token"
}

# others: prints the marketplaces other than Kleinanzeigen, one per line: name, token endpoint, and refresh endpoint if
# there is a separate one.
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

# configuring NAME TOKEN [REFRESH]: prints the command that configures one of the others at the simulator.
configuring() {
  printf 'vault write marketplace/config/%s client_id=demo-client client_secret=demo-secret' "$1"
  printf ' \\\n    token_url=%s' "$simulator/$1/$2"
  if [[ -n ${3:-} ]]; then printf ' \\\n    refresh_url=%s' "$simulator/$1/$3"; fi
}
