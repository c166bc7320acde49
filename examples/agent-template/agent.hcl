# SPDX-License-Identifier: MPL-2.0
#
# The address of Vault is in VAULT_ADDR. The paths are relative to the folder in which the agent is started.

auto_auth {
  method {
    type = "approle"
    config = {
      role_id_file_path                   = "../role-id"
      secret_id_file_path                 = "../secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

# The agent reads static-creds/ again when its ttl has passed. Then there is a newer token.
template {
  destination          = "run/token"
  perms                = "0600"
  error_on_missing_key = true
  contents             = "{{ with secret \"marketplace/static-creds/kleinanzeigen\" }}{{ .Data.access_token }}{{ end }}"
}

# The headers that the API wants, as a configuration file of curl: curl --config run/headers …
template {
  destination          = "run/headers"
  perms                = "0600"
  error_on_missing_key = true
  source               = "headers.ctmpl"
}
