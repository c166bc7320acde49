# SPDX-License-Identifier: MPL-2.0
#
# vault_generic_endpoint: https://registry.terraform.io/providers/hashicorp/vault/latest/docs/resources/generic_endpoint
# vault_generic_secret:   https://registry.terraform.io/providers/hashicorp/vault/latest/docs/ephemeral-resources/generic_secret

terraform {
  required_version = ">= 1.10" # for ephemeral resources
  required_providers {
    vault = {
      source = "hashicorp/vault" # of 2026 or later, for ephemeral vault_generic_secret
    }
  }
}

variable "client_id" {
  type = string
}

# data_json is in the state. So keep the state where it is encrypted, or write the secret by hand (see README.md).
variable "client_secret" {
  type      = string
  sensitive = true
}

# Durations are in seconds and lists are lists, as a read shows them. Otherwise each plan shows a change.
resource "vault_generic_endpoint" "config" {
  path                 = "marketplace/config/marktplaats"
  ignore_absent_fields = true # no read shows client_secret and discard_grants
  data_json = jsonencode({
    provider      = "marktplaats"
    client_id     = var.client_id
    client_secret = var.client_secret
    scope         = ["read", "write"]
    ttl           = 1800
  })
}

resource "vault_generic_endpoint" "role" {
  depends_on           = [vault_generic_endpoint.config]
  path                 = "marketplace/roles/marktplaats/reports"
  ignore_absent_fields = true
  data_json = jsonencode({
    grant_type = "client_credentials"
    scope      = ["read"]
  })
}

# The token of this run. It is in no state and in no plan file.
ephemeral "vault_generic_secret" "reports" {
  path = "marketplace/creds/marktplaats/reports"
}

output "reports_token" {
  value     = ephemeral.vault_generic_secret.reports.data["access_token"]
  ephemeral = true
  sensitive = true
}
