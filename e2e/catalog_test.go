// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
	"vault-plugin-secrets-marketplace/e2e/pages"
)

// Each marketplace of the catalog mints at its simulated vendor, with the commands that a read of its definition returns. The API
// accepts the headers that creds/ returns. If the marketplace has users' tokens, a user authorizes a role, and the role's token is refreshed.
func TestCatalog_EachMarketplaceMints(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vendors := w.Sim.Marketplaces(t)
	keys, _ := w.List(t, "providers").OK(t).Data["keys"].([]any)
	if len(keys) < 57 {
		t.Errorf("the catalog has %d entries", len(keys))
	}
	page := harness.PageBlocks(t, "docs/providers.md")
	for _, key := range keys {
		name := key.(string)
		w.isOnPage(t, page, name)
		vendor, simulated := vendors[name]
		if !simulated {
			if _, known := tokenPaths[name]; !known { // those have tests of their own
				t.Errorf("%s: no vendor is simulated", name)
			}
			continue
		}
		t.Run(name, func(t *testing.T) {
			m := marketplace{world: w, vendor: vendor}
			decode(t, w.Read(t, "providers/"+name), &m.entry)
			m.configure(t)
			if slices.Contains(m.entry.Grants, "client_credentials") {
				m.opens(t, name)
			}
			m.authorize(t)
		})
	}
}

// isOnPage checks that docs/providers.md has the commands of an entry of the catalog.
func (w world) isOnPage(t *testing.T, page []pages.Block, name string) {
	t.Helper()
	var entry struct {
		Commands     []string `json:"commands"`
		UserCommands []string `json:"user_commands"`
	}
	decode(t, w.Read(t, "providers/"+name), &entry)
	var want, got []string
	for _, commands := range [][]string{entry.Commands, entry.UserCommands} {
		if len(commands) > 0 {
			want = append(want, strings.ReplaceAll(strings.Join(commands, "\n")+"\n", " "+w.Path+"/", " marketplace/"))
		}
	}
	for _, b := range page {
		if b.Section == name {
			got = append(got, b.Text)
			harness.Ran(b)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/providers.md has the commands %q for %s, want %q", got, name, want)
	}
}

// decode decodes the data of a successful response.
func decode(t testing.TB, got harness.Response, into any) {
	t.Helper()
	text, err := json.Marshal(got.OK(t).Data)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s\n\t%v", got, err)
	}
}

// marketplace is an entry of the catalog, and its simulated vendor.
type marketplace struct {
	world
	vendor harness.Marketplace
	entry  struct {
		Grants        []string       `json:"grants"`
		Variables     map[string]any `json:"variables"`
		Commands      []string       `json:"commands"`
		UserCommands  []string       `json:"user_commands"`
		Authorization struct {
			Names map[string]string `json:"names"`
		} `json:"authorization"`
		Environments map[string]fields `json:"environments"`
	}
}

// chosen are the values of an operator who has read what a marketplace needs.
var chosen = map[string]fields{
	"amazon-sp":    {"params": fields{"application_id": "amzn1.sp.solution.demo"}},
	"tiktok-shop":  {"params": fields{"service_id": "7000000000000000000"}},
	"walmart":      {"params": fields{"partner_id": "10001234567"}},
	"olx-europe":   {"secret_params": fields{"api_key": "demo-api-key"}},
	"octopia":      {"params": fields{"seller_id": "12345"}},
	"autovit":      ofADealer,
	"otomoto":      ofADealer,
	"standvirtual": ofADealer,
	"jumia":        {"client_auth": post, "client_secret": demoSecret},
}

var ofADealer = fields{"params": fields{"username": "demo@client.example"}, "secret_params": fields{"password": "demo-password"}}

// configure types the first command, and that for users' tokens, with the vendor's values for the placeholders, and the simulator's
// URLs.
func (m marketplace) configure(t *testing.T) {
	t.Helper()
	config := with(fields{}, chosen[m.vendor.Name])
	words := strings.Fields(m.entry.Commands[0])[3:]
	if len(m.entry.UserCommands) > 0 {
		words = append(words, strings.Fields(m.entry.UserCommands[0])[3:]...)
	}
	for _, word := range words {
		field, key, _ := strings.Cut(strings.TrimSuffix(word, "=…"), "=")
		if field == "token_url" || field == "authorization_url" {
			continue // below
		}
		if key == "" {
			config[field] = m.value(field, "")
			continue
		}
		pairs, ok := config[field].(fields)
		if !ok {
			pairs = fields{}
			config[field] = pairs
		}
		if pairs[key] == nil {
			pairs[key] = m.value(field, key)
		}
	}
	config["token_url"] = m.Sim.HTTP + m.vendor.Token
	if m.vendor.Refresh != "" && (m.vendor.Refresh != m.vendor.Token || m.entry.Environments["production"]["refresh_url"] != nil) {
		config["refresh_url"] = m.Sim.HTTP + m.vendor.Refresh
	}
	if m.vendor.Authorize != "" {
		config["authorization_url"] = m.Sim.HTTP + m.vendor.Authorize
	}
	got := m.Write(t, "config/"+m.vendor.Name, config)
	if strings.Contains(got.String(), "set default_expires_in in the config") {
		config["default_expires_in"] = "1h"
		got = m.Write(t, "config/"+m.vendor.Name, config)
	}
	got.OK(t)
}

// value returns the vendor's value of a field of the config.
func (m marketplace) value(field, key string) any {
	switch field {
	case "client_id":
		return m.vendor.ClientID
	case "client_secret":
		m.NoteSecret(m.vendor.ClientSecret)
		return m.vendor.ClientSecret
	}
	needs := []harness.Needs{m.vendor.Authorization.Needs}
	for _, request := range m.vendor.Requests {
		needs = append(needs, request.Needs)
	}
	for _, n := range needs {
		values := map[string]map[string]string{
			"params": n.Parameters, "secret_params": n.SecretParameters, "scope": {"": n.Scope}, "audience": {"": n.Audience},
		}[field]
		if values[key] != "" {
			return values[key]
		}
		for name, value := range n.Headers {
			if strings.EqualFold(strings.TrimPrefix(strings.ToLower(name), "x-"), strings.ReplaceAll(key, "_", "-")) {
				return value
			}
		}
	}
	if m.entry.Variables[key] != nil {
		if variable, ok := m.entry.Variables[key].(map[string]any); ok {
			if accepted, ok := variable["one_of"].([]any); ok {
				return accepted[0]
			}
		}
		return "demo"
	}
	if field == "secret_params" && m.vendor.RefreshToken != "" {
		return m.vendor.RefreshToken // of a vendor without a grant for it
	}
	return "demo" // the vendor accepts any
}

// opens reads a token and opens the vendor's API with it.
func (m marketplace) opens(t *testing.T, path string) string {
	t.Helper()
	var creds struct {
		AccessToken string            `json:"access_token"`
		APIHeaders  map[string]string `json:"api_headers"`
	}
	decode(t, m.Read(t, "creds/"+path), &creds)
	m.NoteSecret(creds.AccessToken)
	if status := m.Sim.Open(t, m.vendor, creds.APIHeaders); status != http.StatusOK {
		t.Errorf("%s: the API responded %d", path, status)
	}
	return creds.AccessToken
}

// authorize gives a role the token of a user, and refreshes it.
func (m marketplace) authorize(t *testing.T) {
	t.Helper()
	role := m.vendor.Name + "/shop"
	switch {
	case slices.Contains(m.entry.Grants, "authorization_code") && m.vendor.Authorize != "":
		m.Write(t, "roles/"+role, byUser).OK(t)
		asked := fields{}
		name, renamed := m.entry.Authorization.Names["scope"]
		if scope := m.vendor.Authorization.Needs.Scope; scope != "" && (!renamed || name != "") {
			asked["scope"] = strings.Fields(scope)
		}
		if name, renamed := m.entry.Authorization.Names["redirect_uri"]; !renamed || name != "" {
			asked["redirect_uri"] = m.vendor.RedirectURI
		}
		b := m.world.authorize(t, role, asked)
		m.Write(t, "exchange/"+role, fields{"redirect": m.Sim.Decide(t, b.URL, "allow").String()}).OK(t)
	case slices.Contains(m.entry.Grants, "refresh_token") && m.vendor.RefreshToken != "":
		m.Write(t, "roles/"+role, fields{"grant_type": "refresh_token", "refresh_token": m.vendor.RefreshToken}).OK(t)
	default:
		return
	}
	before := m.opens(t, role)
	if !slices.Contains(m.entry.Grants, "refresh_token") {
		return
	}
	m.Write(t, "rotate/"+role, nil).OK(t)
	if after := m.opens(t, role); after == before {
		t.Errorf("%s: the token was not refreshed", role)
	}
}
