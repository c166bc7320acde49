# SPDX-License-Identifier: MPL-2.0
#
# Vault Proxy on loopback. The address of Vault itself is in VAULT_ADDR.

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

listener "tcp" {
  address     = "127.0.0.1:8100"
  tls_disable = true
}

api_proxy {
  use_auto_auth_token = true
}
