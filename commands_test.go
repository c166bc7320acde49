// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

// The commands for a token ask for what that token needs, and for nothing that only another grant type needs.
func TestCommands_AskForWhatTheGrantTypeNeeds(t *testing.T) {
	catalog, err := provider.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct{ own, user []string }{
		"otto": {own: []string{
			"vault write m/config/otto client_id=… client_secret=… scope=…",
			"vault read m/creds/otto"}},
		"walmart": {own: []string{
			"vault write m/config/walmart client_id=… client_secret=…",
			"vault read m/creds/walmart"}, user: []string{
			"vault write m/config/walmart client_id=… client_secret=… params=partner_id=…",
			"vault write m/roles/walmart/shop grant_type=authorization_code",
			"vault write m/authorize/walmart/shop redirect_uri=…",
			"vault write m/exchange/walmart/shop redirect='…'",
			"vault read m/creds/walmart/shop"}},
		"amazon-sp": {own: []string{
			"vault write m/config/amazon-sp client_id=… client_secret=… scope=…",
			"vault read m/creds/amazon-sp"}, user: []string{
			"vault write m/config/amazon-sp client_id=… client_secret=… params=application_id=… scope=…",
			"vault write m/roles/amazon-sp/shop grant_type=authorization_code",
			"vault write m/authorize/amazon-sp/shop redirect_uri=…",
			"vault write m/exchange/amazon-sp/shop redirect='…'",
			"vault read m/creds/amazon-sp/shop"}},
		"etsy": {own: []string{
			"vault write m/config/etsy client_id=…",
			"vault write m/roles/etsy/shop grant_type=authorization_code",
			"vault write m/authorize/etsy/shop redirect_uri=… scope=…",
			"vault write m/exchange/etsy/shop redirect='…'",
			"vault read m/creds/etsy/shop"}},
		"autovit": {own: []string{
			"vault write m/config/autovit client_id=… client_secret=… params=username=… secret_params=password=…",
			"vault read m/creds/autovit"}},
		"reverb": {own: []string{
			"vault write m/config/reverb client_id=… client_secret=… default_expires_in=… scope=…",
			"vault read m/creds/reverb"}},
		"linnworks": {own: []string{
			"vault write m/config/linnworks client_id=… client_secret=… default_expires_in=… secret_params=Token=…",
			"vault read m/creds/linnworks"}},
		"olx-europe": {own: []string{
			"vault write m/config/olx-europe client_id=… client_secret=… params=site=… secret_params=api_key=…",
			"vault write m/roles/olx-europe/shop grant_type=authorization_code",
			"vault write -f m/authorize/olx-europe/shop",
			"vault write m/exchange/olx-europe/shop redirect='…'",
			"vault read m/creds/olx-europe/shop"}},
		"tiktok-shop": {own: []string{
			"vault write m/config/tiktok-shop client_id=… client_secret=… params=service_id=…",
			"vault write m/roles/tiktok-shop/shop grant_type=authorization_code",
			"vault write -f m/authorize/tiktok-shop/shop",
			"vault write m/exchange/tiktok-shop/shop redirect='…'",
			"vault read m/creds/tiktok-shop/shop"}},
		"jumia": {own: []string{
			"vault write m/config/jumia client_id=…",
			"vault write m/roles/jumia/shop grant_type=refresh_token refresh_token=…",
			"vault read m/creds/jumia/shop"}},
		"oauth2": {own: []string{
			"vault write m/config/oauth2 client_id=… client_secret=… token_url=… client_auth=…",
			"vault read m/creds/oauth2"}, user: []string{
			"vault write m/config/oauth2 client_id=… client_secret=… token_url=… authorization_url=… client_auth=…",
			"vault write m/roles/oauth2/shop grant_type=authorization_code",
			"vault write m/authorize/oauth2/shop redirect_uri=… scope=…",
			"vault write m/exchange/oauth2/shop redirect='…'",
			"vault read m/creds/oauth2/shop"}},
	} {
		d, _ := catalog.Lookup(name)
		for kind, lists := range map[string][2][]string{
			"own": {Commands("m/", name, d), want.own}, "user": {UserCommands("m/", name, d), want.user},
		} {
			if !slices.Equal(lists[0], lists[1]) {
				t.Errorf("%s, %s:\n\t%s\nwant\n\t%s", name, kind, strings.Join(lists[0], "\n\t"), strings.Join(lists[1], "\n\t"))
			}
		}
	}
}

// A placeholder has the description of what it stands for, with the accepted values.
func TestPlaceholders_AreDescribed(t *testing.T) {
	catalog, err := provider.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	d, _ := catalog.Lookup("olx-europe")
	got := Placeholders(d)
	for name, part := range map[string]string{
		"params=site": "www.storia.ro", "secret_params=api_key": "API key",
	} {
		if !strings.Contains(got[name], part) {
			t.Errorf("%s: %q, want %q in it", name, got[name], part)
		}
	}
}

// The page of a marketplace says what to get from it, has each command on a line of its own, and says what to know.
func TestProviders_SetupIsAPage(t *testing.T) {
	m := mounted(t)
	resp, err := m.request(logical.ReadOperation, "providers/shopify", nil)
	if err != nil || resp == nil {
		t.Fatal(resp, err)
	}
	page, _ := resp.Data["setup"].(string)
	for _, want := range []string{
		"Shopify\n", "What to get: The client ID", "Documentation: https://shopify.dev/",
		"\n    vault write marketplace/config/shopify client_id=… client_secret=… params=shop=…\n    vault read marketplace/creds/shopify\n",
		"For the token of a user", "\n    vault write marketplace/exchange/shopify/shop redirect='…'\n",
		"If you have a refresh token already", "\n    vault write marketplace/roles/shopify/shop grant_type=refresh_token refresh_token=…\n",
		"\n    params=shop: the store's name", "A token lives 1 hour.", "\n- A store has its own token endpoint.",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing in\n%s", want, page)
		}
	}
}

// No page has a command twice.
func TestProviders_SetupHasNoCommandTwice(t *testing.T) {
	catalog, err := provider.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range catalog.Names() {
		d, _ := catalog.Lookup(name)
		page := setup("m/", name, d)
		if command := importCommand("m/", name); strings.Count(page, command) > 1 {
			t.Errorf("%s: %q is there twice in\n%s", name, command, page)
		}
	}
}

// printed is a command of a page, with values in place of the placeholders.
func (m *mount) printed(command string, d provider.Definition) error {
	m.Helper()
	words := strings.Fields(strings.NewReplacer(" -f", "", "'", "").Replace(command))
	data := make(map[string]any)
	for _, word := range words[3:] {
		field, value, _ := strings.Cut(word, "=")
		key, asked, isPair := strings.Cut(value, "=")
		if asked == "" {
			key, asked = "", value
		}
		text := strings.Replace(asked, "…", printedValue(field, key, d), 1)
		if !isPair {
			data[field] = text
			continue
		}
		pairs, _ := data[field].([]string)
		data[field] = append(pairs, key+"="+text)
	}
	if words[2] == "m/"+configPrefix+d.Name {
		data["verify_connection"] = false // there is no such marketplace here
	}
	resp, err := m.request(logical.UpdateOperation, strings.TrimPrefix(words[2], "m/"), data)
	if resp.IsError() {
		return resp.Error()
	}
	return err
}

// printedValue returns what an operator gives in place of a placeholder.
func printedValue(field, key string, d provider.Definition) string {
	if accepted := d.Variables[key].OneOf; len(accepted) > 0 {
		return accepted[0]
	}
	if d.Variables[key].Kind == provider.VariableHost {
		return "shop.example.com"
	}
	switch field {
	case "client_secret":
		return "s3cret-of-mine"
	case "client_auth":
		return string(d.ClientAuth[0])
	case "default_expires_in":
		return "1h"
	}
	if strings.HasSuffix(field, "_url") || field == "redirect_uri" {
		return "https://shop.example.com/" + field
	}
	return "7" // a text, a number, or a DNS label
}

// Every printed command is accepted the first time, up to the one that sends a user to the marketplace.
func TestCommands_AreAcceptedAsPrinted(t *testing.T) {
	catalog, err := provider.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	m := mounted(t)
	for _, name := range catalog.Names() {
		d, _ := catalog.Lookup(name)
		for _, commands := range [][]string{Commands("m/", name, d), UserCommands("m/", name, d)} {
			for _, command := range commands {
				if strings.HasPrefix(command, "vault read") || strings.Contains(command, exchangePrefix) {
					continue
				}
				if err := m.printed(command, d); err != nil {
					t.Errorf("%s\n\t%v", command, err)
				}
			}
			if _, err := m.request(logical.DeleteOperation, configPrefix+name, map[string]any{"discard_grants": true}); err != nil {
				t.Error(err)
			}
		}
	}
}
