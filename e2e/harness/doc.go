// SPDX-License-Identifier: MPL-2.0

// Package harness runs what the end-to-end tests need: a real Vault server with the plugin registered, and the simulated
// marketplaces. It talks to both over HTTP only, as a user would, and stops every process that it started.
package harness
