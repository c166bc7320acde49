// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// output returns what the program prints when these lines are typed.
func output(t *testing.T, lines ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), strings.NewReader(strings.Join(lines, "\n")), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	return out.String()
}

// afterFirstSteps returns an engine on which the first steps were typed.
func afterFirstSteps(t *testing.T) *engine {
	t.Helper()
	e, err := newEngine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	for _, s := range steps {
		if err := e.show(t.Context(), s, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// contains checks that a text has each of the parts, in their order.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Fatalf("the output lacks %q after the others:\n%s", part, text)
		}
		rest = after
	}
}

// The program says what it is not, and shows a token from a config to a lease.
func TestTry_FirstSteps(t *testing.T) {
	contains(t, output(t), "This is not a Vault.", "marktplaats", "oauth2", "A client id and a client secret",
		"$ vault write marketplace/config/kleinanzeigen", "Success! Data written to: marketplace/config/kleinanzeigen",
		"$ vault read marketplace/creds/kleinanzeigen", "lease_id", "marketplace/creds/kleinanzeigen/", "lease_duration", "59m5", "access_token", "…",
		"client_secret=wrong", "Code: 400", "invalid_client", "nothing was stored",
		"$ vault read -format=yaml marketplace/status", "data:\n  attention: []\n", "  ready: 1\n")
}

// The words of the first steps are those of the demo on a Vault server, so that a newcomer recognizes them.
func TestTry_StepsAreThoseOfDemo(t *testing.T) {
	var demo string
	for _, name := range []string{"lib.sh", "demo"} {
		text, err := os.ReadFile("../../scripts/" + name)
		if err != nil {
			t.Fatal(err)
		}
		demo += string(text)
	}
	quotes := regexp.MustCompile(`' \\\n +'`) // between two lines of a comment
	demo = quotes.ReplaceAllString(demo, "\n")
	demo = strings.NewReplacer(`\\`, `\`, "$simulator", "SIMULATOR").Replace(demo)
	for _, s := range steps {
		for _, text := range []string{s.comment, s.command} {
			if !strings.Contains(demo, text) {
				t.Errorf("make demo does not say %q", text)
			}
		}
	}
}

// Commands can be typed after the first steps, and a lease can be revoked once.
func TestTry_Commands(t *testing.T) {
	e := afterFirstSteps(t)
	read, err := e.execute(t.Context(), "vault read marketplace/creds/kleinanzeigen")
	if err != nil {
		t.Fatal(err)
	}
	lease := regexp.MustCompile(`marketplace/creds/\S+`).FindString(read)
	for _, test := range []struct{ command, want, refusal string }{
		{command: "vault write -f marketplace/rotate/kleinanzeigen", want: "expires_at"},
		{command: "vault patch marketplace/config/kleinanzeigen ttl=5m", want: "Success! Data written to"},
		{command: "vault read -field=ttl marketplace/config/kleinanzeigen", want: "300"},
		{command: "vault list marketplace/config", want: "kleinanzeigen"},
		{command: "vault path-help marketplace/config/x", want: "client_id"},
		{command: `vault write marketplace/config/x 'provider=kleinanzeigen' client_id="x" client_secret='y z' verify_connection=false`, want: "not verified"},
		{command: "vault write marketplace/config/y provider=oauth2 client_id=y client_secret=z client_auth=client_secret_basic token_url=http://127.0.0.1:1/",
			refusal: "Code: 502"},
		{command: "vault read -format=json marketplace/status", want: `"never_used": 1,`},
		{command: "vault read -format=xml marketplace/status", refusal: `-format: "xml" is not known here; use json or yaml`},
		{command: "vault lease revoke " + lease, want: "Revoked lease"},
		{command: "vault lease revoke -sync " + lease, refusal: "invalid lease"},
		{command: "vault delete marketplace/config/kleinanzeigen", want: "Data deleted"},
		{command: "vault read marketplace/config/kleinanzeigen", refusal: "no value found"},
		{command: "vault read marketplace/creds/kleinanzeigen", refusal: "there is no such config; create it with"},
		{command: "vault read secret/x", refusal: "path: is not below marketplace/; write a path"},
		{command: "vault read -output=x marketplace/settings", refusal: "-output: is not known here; omit it"},
		{command: "vault write marketplace/settings allow", refusal: "allow: is not a field; write FIELD=VALUE"},
		{command: "vault read 'marketplace", refusal: "close the quotes"},
		{command: "vault status", refusal: "command: is not known here; use vault read"},
		{command: "vault unwrap x", refusal: "command: is not known here; use vault read"},
		{command: "vault lease renew x", refusal: "command: is not known here; use vault read"},
	} {
		got, err := e.execute(t.Context(), test.command)
		switch {
		case test.refusal == "" && err != nil:
			t.Errorf("%s: %v", test.command, err)
		case test.refusal == "" && !strings.Contains(got, test.want):
			t.Errorf("%s prints %q, want %q", test.command, got, test.want)
		case test.refusal != "" && (err == nil || !strings.Contains(err.Error(), test.refusal)):
			t.Errorf("%s prints %q, %v, want %q", test.command, got, err, test.refusal)
		}
	}
}

// The lines of standard input are commands.
func TestTry_ReadsCommands(t *testing.T) {
	contains(t, output(t, "", "vault list marketplace/config", "vault seal now"), "Keys\n----\nkleinanzeigen\n", "is not known here; use")
}

// A newcomer leaves with exit, and the lines after it are not read.
func TestTry_Exit(t *testing.T) {
	if text := output(t, "exit", "vault seal now"); strings.Contains(text, "is not known here") {
		t.Errorf("after exit, the program reads on:\n%s", text)
	}
}

// The commands of the invitation show a broken shop.
func TestTry_Invitation(t *testing.T) {
	e := afterFirstSteps(t)
	var last string
	commands := regexp.MustCompile(`(?m)^    vault (?:.*\\\n)*.*`).FindAllString(invitation, -1)
	for _, command := range commands {
		last, _ = e.execute(t.Context(), strings.ReplaceAll(command, "SIMULATOR", e.vendors.HTTP)) // the read of the token is refused
	}
	contains(t, last, "config: second", "invalid_client", "remedy: vault write marketplace/config/second client_secret=…", "since: ", "failing: 1")
}
