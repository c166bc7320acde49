// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
	"vault-plugin-secrets-marketplace/e2e/pages"
)

// Each marketplace of the catalog mints at its simulated vendor, with exactly the commands that a read of its definition returns. Only
// the URLs are the simulator's. The API accepts the headers that creds/ returns. If the marketplace has users' tokens, a user authorizes
// a role, and the role's token is refreshed.
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
			m.run(t, m.entry.Commands)
			m.run(t, m.entry.UserCommands)
			m.run(t, m.commandsForUsers())
			m.asksForAnotherAuthorization(t)
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
	// page is where a user decides, and state that of a device authorization, once authorize/ has returned it.
	page  string
	entry struct {
		Grants       []string          `json:"grants"`
		ClientAuth   []string          `json:"client_auth"`
		Variables    map[string]any    `json:"variables"`
		Commands     []string          `json:"commands"`
		UserCommands []string          `json:"user_commands"`
		Environments map[string]fields `json:"environments"`
	}
}

// chosen are values that an operator chooses for placeholders, if the simulator does not describe them as a need of its requests.
var chosen = map[string]map[string]any{
	"amazon-sp":   {"application_id": "amzn1.sp.solution.demo"},
	"tiktok-shop": {"service_id": "7000000000000000000"},
	"walmart":     {"partner_id": "10001234567"},
	"olx-europe":  {"api_key": "demo-api-key"},
	"octopia":     {"seller_id": "12345"},
}

// run types printed commands one by one, with values in place of the placeholders. The config is new. A command that reads creds/
// also opens the vendor's API. At the end, the token of a role is refreshed.
func (m *marketplace) run(t *testing.T, commands []string) {
	t.Helper()
	if len(commands) == 0 {
		return
	}
	m.Send(t, http.MethodDelete, "config/"+m.vendor.Name+"?discard_grants=true", nil).OK(t)
	before, last := "", ""
	for _, command := range commands {
		words := strings.Fields(strings.NewReplacer(" -f ", " ", "'", "").Replace(command))
		path := strings.TrimPrefix(words[2], m.Path+"/")
		last = path
		if words[1] == "read" {
			before = m.opens(t, strings.TrimPrefix(path, "creds/"))
			continue
		}
		got := m.Write(t, path, m.filledIn(t, path, words[3:])).OK(t)
		if strings.HasPrefix(path, "authorize/") {
			m.page, _ = got.Data["authorization_url"].(string)
		}
	}
	role := strings.TrimPrefix(last, "creds/")
	if !strings.Contains(role, "/") || !slices.Contains(m.entry.Grants, "refresh_token") {
		return
	}
	m.Write(t, "rotate/"+role, nil).OK(t)
	if after := m.opens(t, role); after == before {
		t.Errorf("%s: the token was not refreshed", role)
	}
}

// commandsForUsers returns the commands for a user's token if the printed ones import a refresh token. They do if it is not known
// where users authorize a client.
func (m *marketplace) commandsForUsers() []string {
	printed := strings.Join(m.entry.Commands, "\n")
	if !slices.Contains(m.entry.Grants, "authorization_code") || !strings.Contains(printed, "grant_type=refresh_token") {
		return nil
	}
	name := m.vendor.Name
	return []string{
		"vault write config/" + name + " client_id=… client_secret=… client_auth=…",
		"vault write roles/" + name + "/shop grant_type=authorization_code",
		"vault write authorize/" + name + "/shop redirect_uri=…",
		"vault write exchange/" + name + "/shop redirect='…'",
		"vault read creds/" + name + "/shop",
	}
}

// filledIn returns the body of a printed command, as the terminal sends it. In a config, the simulator's URLs are in place of the
// vendor's.
func (m *marketplace) filledIn(t *testing.T, path string, words []string) fields {
	t.Helper()
	body := fields{}
	for _, word := range words {
		field, value, _ := strings.Cut(word, "=")
		key, asked, isPair := strings.Cut(value, "=")
		switch {
		case value == "…":
			body[field] = m.value(t, field, "")
		case isPair && asked == "…":
			pairs, _ := body[field].([]string)
			body[field] = append(pairs, key+"="+fmt.Sprint(m.value(t, field, key)))
		default:
			body[field] = value
		}
	}
	if !strings.HasPrefix(path, "config/") {
		return body
	}
	body["token_url"] = m.Sim.HTTP + m.vendor.Token
	if m.vendor.Refresh != "" && (m.vendor.Refresh != m.vendor.Token || m.entry.Environments["production"]["refresh_url"] != nil) {
		body["refresh_url"] = m.Sim.HTTP + m.vendor.Refresh
	}
	if m.vendor.Authorize != "" {
		body["authorization_url"] = m.Sim.HTTP + m.vendor.Authorize
	}
	return body
}

// value returns what an operator gives in place of a placeholder.
func (m *marketplace) value(t *testing.T, field, key string) any {
	t.Helper()
	if own, ok := chosen[m.vendor.Name][key]; ok {
		return own
	}
	switch field {
	case "client_id":
		return m.vendor.ClientID
	case "client_secret":
		m.NoteSecret(m.vendor.ClientSecret)
		return m.vendor.ClientSecret
	case "client_auth":
		return m.entry.ClientAuth[len(m.entry.ClientAuth)-1]
	case "default_expires_in":
		return "1h"
	case "redirect_uri":
		return m.vendor.RedirectURI
	case "refresh_token":
		return m.vendor.RefreshToken
	case "redirect":
		return m.Sim.Decide(t, m.page, "allow").String()
	}
	if value := m.need(field, key); value != "" {
		return value
	}
	if field == "scope" && len(m.vendor.Scopes) > 0 {
		return strings.Join(m.vendor.Scopes, " ")
	}
	if variable, ok := m.entry.Variables[key].(map[string]any); ok {
		if accepted, ok := variable["one_of"].([]any); ok {
			return accepted[0]
		}
	}
	if field == "secret_params" && m.vendor.RefreshToken != "" {
		return m.vendor.RefreshToken // of a vendor without a grant for it
	}
	return "demo" // the vendor accepts any
}

// need returns the value that the vendor's requests need; empty if they need none.
func (m *marketplace) need(field, key string) string {
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
	return ""
}

// opens reads a token and opens the vendor's API with it.
func (m *marketplace) opens(t *testing.T, path string) string {
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

// asksForAnotherAuthorization checks that a refresh token that the vendor refuses makes the role ask for an authorization.
func (m *marketplace) asksForAnotherAuthorization(t *testing.T) {
	t.Helper()
	if !slices.Contains(m.entry.Grants, "refresh_token") || m.vendor.Refresh == "" {
		return
	}
	role := m.vendor.Name + "/refused"
	m.Write(t, "roles/"+role, fields{"grant_type": "refresh_token", "refresh_token": "8f14e45fceea167a5a36dedd4bea2543"}).OK(t)
	m.Read(t, "creds/"+role).Refused(t, http.StatusBadRequest, "refused the grant")
	mustHave(t, m.Read(t, "roles/"+role), fields{"authorized": false})
}
