# SPDX-License-Identifier: MPL-2.0
#
# What an application may do: read the token of one config, and report one that the marketplace's API has refused.

path "marketplace/creds/kleinanzeigen" {
  capabilities = ["read"]
}

path "marketplace/static-creds/kleinanzeigen" {
  capabilities = ["read"]
}

path "marketplace/rotate/kleinanzeigen" {
  capabilities        = ["update"]
  required_parameters = ["access_token"]
}
