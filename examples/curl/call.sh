#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Calls a marketplace's API with a token from Vault: call.sh URL. Needs curl and jq. No secret is among the arguments of a
# process, because curl reads headers and bodies from standard input.
set -eu
config=kleinanzeigen

# vault METHOD PATH: sends standard input to Vault, and prints the response. An error of Vault's ends the script.
vault() {
  curl --silent --show-error --fail-with-body --request "$1" --data @- --config "$dir/vault" "$VAULT_ADDR/v1/$2"
}

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

: >"$dir/vault"
jq --null-input --rawfile role ../role-id --rawfile secret ../secret-id \
  '{role_id: ($role | rtrimstr("\n")), secret_id: ($secret | rtrimstr("\n"))}' |
  vault POST auth/approle/login |
  jq --raw-output '"header = \"X-Vault-Token: \(.auth.client_token)\""' >"$dir/login"
mv "$dir/login" "$dir/vault"

# read_token: stores the token, and the headers that the API wants, as curl's configuration.
read_token() {
  vault GET "marketplace/creds/$config" </dev/null >"$dir/creds"
  jq --raw-output '.data.api_headers | to_entries[] | "header = \"\(.key): \(.value)\""' "$dir/creds" >"$dir/api"
}

# call URL: calls the API, and prints the status.
call() { curl --silent --show-error --output "$dir/answer" --write-out '%{http_code}' --config "$dir/api" "$1"; }

read_token
status=$(call "$1")
if [ "$status" = 401 ]; then # the API has refused the token: report it, and read the next one
  jq '{access_token: .data.access_token}' "$dir/creds" | vault POST "marketplace/rotate/$config" >/dev/null
  read_token
  status=$(call "$1")
fi
cat "$dir/answer"
[ "$status" -lt 400 ]
