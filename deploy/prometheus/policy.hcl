# SPDX-License-Identifier: MPL-2.0
#
# The Vault policy of Prometheus: the metrics of one mount, and nothing else.
#
#     vault policy write marketplace-metrics policy.hcl

path "marketplace/metrics" {
  capabilities = ["read"]
}
