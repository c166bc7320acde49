// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
	"vault-plugin-secrets-marketplace/e2e/pages"
)

// operationsPage is the page whose commands these tests type.
const operationsPage = "docs/operations.md"

// runbook types the commands of the page. The shops that it names are at a simulator.
type runbook struct {
	world
	page   *harness.Page
	folder string
}

func newRunbook(t *testing.T, server *harness.Server, token string, env ...string) runbook {
	t.Helper()
	r := runbook{world: world{Mount: server.MountAt(t, "marketplace"), Sim: harness.StartSimulator(t)}, folder: t.TempDir()}
	r.NoteSecret(demoSecret)
	r.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
	r.page = harness.OpenPage(t, operationsPage, r.shell(t, server, token, env...))
	r.page.Replace(
		"provider=kleinanzeigen", "provider=kleinanzeigen token_url="+r.Sim.HTTP+kleinanzeigenTokenPath,
		"https://auth.example.com/token", r.Sim.HTTP+oauth2TokenPath, "https://seller.example/callback", redirectURI,
		"/var/log/vault", server.LogFolder(),
	)
	return r
}

func (r runbook) shell(t *testing.T, server *harness.Server, token string, env ...string) harness.Shell {
	t.Helper()
	return server.Shell(t, r.folder, append(env, "VAULT_TOKEN="+token, "HOME="+r.folder)...)
}

// shop stores a config of kleinanzeigen with a client of its own, and a secret that the provider does not know yet.
func (r runbook) shop(t *testing.T, config, client, secret string) {
	t.Helper()
	r.NoteSecret(secret)
	r.Write(t, "config/"+config, r.kleinanzeigen(unverified, fields{"client_id": client, "client_secret": secret})).OK(t)
}

// knows makes the provider know a client by one secret alone.
func (r runbook) knows(t *testing.T, client, secret string) {
	t.Helper()
	r.NoteSecret(secret)
	r.Sim.AddClient(t, kleinanzeigen, client, harness.Client{Secret: secret})
}

// register registers the public key or certificate in a file of the page, as an operator does at the marketplace.
func (r runbook) register(t *testing.T, client, auth, key, file string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(r.folder, file))
	if err != nil {
		t.Fatal(err)
	}
	r.Sim.AddClient(t, oauth2, client, harness.Client{Auth: auth, Keys: map[string]string{key: string(text)}})
}

// openssl runs a block, or writes the files that it would write if there is no such program.
func (r runbook) openssl(t *testing.T, b pages.Block) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err == nil {
		if err := r.page.Type(b); err != nil {
			t.Fatalf("%s: %v\n%s", b, err, r.page.Output())
		}
		return
	}
	harness.Ran(b)
	key := harness.NewKey(t, "ec")
	certificate := harness.NewCertificate(t, key, "my-client", -time.Hour, time.Hour, nil)
	for name, text := range map[string]string{
		"new.pem": key.Private, "key.pem": key.Private, "public.pem": key.Public, "client.pem": certificate.PEM, "new-client.pem": certificate.PEM,
	} {
		if strings.Contains(b.Text, " "+name) {
			if err := os.WriteFile(filepath.Join(r.folder, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// set gives later blocks a value that the operator has.
func (r runbook) set(t *testing.T, name, value string) {
	t.Helper()
	r.NoteSecret(value)
	if err := r.page.Type(pages.Block{Page: operationsPage, Text: name + "='" + value + "'\n"}); err != nil {
		t.Fatal(err)
	}
}

// The commands of docs/operations.md work on a real server, in the order of the page, and print what it shows.
func TestOperations_Page(t *testing.T) {
	t.Parallel()
	server, other := harness.StartServer(t), harness.StartServer(t)
	secrets := map[string]string{"client_secret": "north-2", "new_secret": "north-3", "east_secret": "east-1", "west_secret": "west-1"}
	var env []string
	for name, secret := range secrets {
		env = append(env, name+"="+secret+"-"+harness.Random())
	}
	token := "operator-" + harness.Random() // at both servers
	for _, s := range []*harness.Server{server, other} {
		s.NoteSecret(token)
		s.Do(t, harness.Request{Method: http.MethodPost, Path: "auth/token/create", Body: fields{"id": token, "policies": []string{"root"}}}).OK(t)
	}
	r := newRunbook(t, server, token, append(env, "new_vault="+other.URL)...)
	value := func(name string) string {
		for _, e := range env {
			if text, ok := strings.CutPrefix(e, name+"="); ok {
				return text
			}
		}
		t.Fatalf("the page has no value %s", name)
		return ""
	}
	before := r.preparations(t, other, value)
	blocks := make(map[string]int)
	for _, b := range r.page.Blocks {
		if prepare := before[place{b.Section, blocks[b.Section]}]; prepare != nil {
			prepare()
		}
		blocks[b.Section]++
		switch b.Mark {
		case "run: cluster":
			continue // TestOperations_Failover runs it
		case "run: openssl":
			r.openssl(t, b)
		default:
			r.page.Step(t, b)
		}
		if b.Section == "Back up and restore" {
			harness.Eventually(t, 30*time.Second, "the restored mount answers", func() bool {
				return r.Read(t, "static-creds/shop-east").Status == http.StatusOK
			})
		}
	}
	for at := range before {
		if at.block >= blocks[at.section] {
			t.Errorf("the page has no block %d in the section %q", at.block, at.section)
		}
	}
}

// place is before a block of a section, counted from 0.
type place struct {
	section string
	block   int
}

// preparations returns what happens at the marketplace, or with the users, before a block.
func (r runbook) preparations(t *testing.T, other *harness.Server, value func(string) string) map[place]func() {
	moved := world{Mount: other.MountAt(t, "marketplace"), Sim: r.Sim}
	return map[place]func(){
		{"A shop returns 400", 0}: func() {
			r.knows(t, "north", value("client_secret"))
			r.shop(t, "shop-north", "north", "north-1")
			r.Read(t, "creds/shop-north").Refused(t, http.StatusBadRequest, "invalid_client")
		},
		{"The provider limits us", 0}: func() {
			r.knows(t, "south", "south-secret")
			r.shop(t, "shop-south", "south", "south-secret")
			r.Sim.Fault(t, kleinanzeigen, fields{"kind": "status", "status": 429, "headers": fields{"Retry-After": "3600"}, "times": 1})
		},
		{"Two shops at one marketplace", 0}: func() {
			r.knows(t, "east", value("east_secret"))
			r.knows(t, "west", value("west_secret"))
		},
		{"We rotate a client secret", 0}: func() { r.knows(t, "north", value("new_secret")) },
		{"A certificate ends", 0}:        func() { r.certified(t) },
		{"A certificate ends", 5}: func() {
			r.register(t, "my-client", "self_signed_tls_client_auth", "k", "new-client.pem")
		},
		{"A client with a key", 1}: func() { r.register(t, "my-client", "private_key_jwt", "key-1", "public.pem") },
		{"A client with a key", 2}: func() { r.register(t, "my-client", "private_key_jwt", "key-2", "new-client.pem") },
		{"Who read what", 0}:       func() { r.Creds(t, "shop-north") },
		{"We move to another Vault", 0}: func() {
			moved.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
		},
		{"Moving a grant to another Vault", 0}: func() {
			for _, w := range []world{r.world, moved} {
				w.Write(t, "config/users", w.withUsers(marktplaats, unverified)).OK(t)
			}
			r.Write(t, "roles/users/north", byUser).OK(t)
			r.authorizeRole(t, marktplaats, "users/north")
		},
		{"Moving a grant to another Vault", 2}: func() {
			r.set(t, "redirect", r.Sim.Decide(t, strings.TrimSpace(lastLine(r.page.Output())), "allow").String())
		},
		{"Moving a grant to another Vault", 3}: func() {
			r.Write(t, "roles/users/elsewhere", byUser).OK(t)
			r.authorizeRole(t, marktplaats, "users/elsewhere")
			live := r.noteRefreshTokens(t, marktplaats)
			r.set(t, "refresh_token", live[len(live)-1])
		},
		{"Sizing", 1}: func() { r.Creds(t, "shop-east") },
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// certified stores a config whose client has a certificate.
func (r runbook) certified(t *testing.T) {
	t.Helper()
	old := harness.NewCertificate(t, harness.NewKey(t, "ec"), "my-client", -time.Hour, time.Hour, nil)
	r.NoteSecret(old.Private)
	r.Sim.AddClient(t, oauth2, "my-client", harness.Client{Auth: "self_signed_tls_client_auth", Keys: map[string]string{"k": old.PEM}})
	r.Write(t, "config/shop-cert", fields{
		"provider": oauth2, "client_id": "my-client", "token_url": r.Sim.HTTPS + oauth2TokenPath, "ca_cert": r.Sim.CACert,
		"client_auth": "self_signed_tls_client_auth", "private_key": old.Private, "client_certificate": old.PEM,
	}).OK(t)
}

// In a cluster, the next active node has the same token, and no provider is asked for another. It knows which role needs its user.
func TestOperations_Failover(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t)
	r := newRunbook(t, c.Active(t), c.Active(t).Admin.Token())
	r.Write(t, "config/shop-north", r.kleinanzeigen()).OK(t)
	r.Read(t, "static-creds/shop-north").OK(t)
	r.Write(t, "config/users", r.withUsers(marktplaats, unverified)).OK(t)
	r.Write(t, "roles/users/north", byUser).OK(t)
	var printed []string
	for _, b := range r.page.Blocks {
		if b.Mark != "run: cluster" {
			continue
		}
		if len(printed) == 2 { // the operator waits for the next active node
			next := c.Active(t)
			r.page = harness.OpenPage(t, operationsPage, r.shell(t, next, r.Admin.Token()))
			harness.Eventually(t, 30*time.Second, "the next node answers", func() bool {
				return r.on(next).Read(t, "status").Status == http.StatusOK
			})
		}
		r.page.Step(t, pages.Block{Page: b.Page, Line: b.Line, Section: b.Section, Mark: pages.Run, Text: b.Text})
		printed = append(printed, r.page.Output())
	}
	if len(printed) != 4 {
		t.Fatalf("%s has %d blocks for a cluster, want 4", operationsPage, len(printed))
	}
	if printed[0] == "" || printed[0] != printed[2] || strings.TrimSpace(printed[3]) != "1" {
		t.Errorf("the page's commands print %q", printed)
	}
	r.asked(t, kleinanzeigen, 1, "through the failover")
}

// maxLeaseBytes bounds what a lease takes in Vault's storage, without the access token, which it contains twice.
const maxLeaseBytes = 1200

// The sizes in docs/operations.md are what a lease takes. go test -v prints it.
func TestOperations_SizeOfALease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	creds := w.Creds(t, "a")
	raw := w.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/raw/sys/expire/id/" + creds.LeaseID}).OK(t)
	lease, _ := raw.Data["value"].(string)
	copies := strings.Count(lease, creds.AccessToken)
	size := len(lease) - copies*len(creds.AccessToken)
	t.Logf("a lease takes %d bytes, and %d times the token", size, copies)
	if copies != 2 || size > maxLeaseBytes {
		t.Errorf("a lease takes %d bytes and %d times the token, want at most %d and 2", size, copies, maxLeaseBytes)
	}
}
