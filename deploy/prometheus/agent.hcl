# SPDX-License-Identifier: MPL-2.0
#
# The configuration of a Vault Agent that keeps the Vault token of Prometheus in a file. VAULT_ADDR names the server. In production,
# keep the files in a folder of Prometheus' own, and name them by their whole paths.

auto_auth {
  method {
    type = "approle"
    config = {
      role_id_file_path                   = "role-id"
      secret_id_file_path                 = "secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
  sink {
    type = "file"
    config = {
      path = "vault-token"
      mode = 0400
    }
  }
}
