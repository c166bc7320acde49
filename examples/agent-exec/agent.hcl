# SPDX-License-Identifier: MPL-2.0
#
# Vault Agent as a process supervisor. The address of Vault is in VAULT_ADDR.

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

env_template "SHOP_TOKEN" {
  error_on_missing_key = true
  contents             = "{{ with secret \"marketplace/static-creds/kleinanzeigen\" }}{{ .Data.access_token }}{{ end }}"
}

exec {
  command                   = ["./shop"]
  restart_on_secret_changes = "always"
  restart_stop_signal       = "SIGTERM"
}
