// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// keyClient returns a config of the generic provider whose client has a key.
func (w world) keyClient(tokenURL, auth string, key harness.Key, changes ...fields) fields {
	w.NoteSecret(key.Private)
	config := fields{"provider": oauth2, "client_id": "seller", "token_url": tokenURL, "client_auth": auth, "private_key": key.Private}
	return with(config, changes...)
}

// jwks returns a JSON Web Key Set.
func jwks(keys ...map[string]any) map[string]any { return map[string]any{"keys": keys} }

// The server of fosite accepts the assertions of each algorithm that it knows: for tokens, for their revocation, and after a reload.
func TestKeys_FositeAcceptsAssertions(t *testing.T) {
	t.Parallel()
	w, server := newWorldOn(t, harness.StartServer(t)), harness.StartOIDC(t)
	for algorithm, kind := range map[string]string{"RS256": "rsa", "PS256": "rsa", "ES256": "ec"} {
		key := harness.NewKey(t, kind)
		server.PutClient(t, "seller", harness.OIDCClient{Method: "private_key_jwt", Algorithm: algorithm, Keys: jwks(key.JWK("k", algorithm))})
		w.Write(t, "config/"+algorithm, w.keyClient(server.HTTP+"/token", "private_key_jwt", key, fields{
			"key_id": "k", "signing_algorithm": algorithm, "scope": "read", "revocation_url": server.HTTP + "/revoke", "reuse_token": false,
		})).OK(t)
		mustHave(t, w.Read(t, "config/"+algorithm), fields{"key_id": "k", "signing_algorithm": algorithm, "client_auth": "private_key_jwt"})
		creds := w.Creds(t, algorithm)
		if got := server.Protected(t, creds.AccessToken); got != "seller" {
			t.Errorf("%s: the token is one of %q", algorithm, got)
		}
		w.reload(t, fields{"mounts": []string{w.Path + "/"}})
		if got := server.Protected(t, w.Creds(t, algorithm).AccessToken); got != "seller" {
			t.Errorf("%s: after a reload, the token is one of %q", algorithm, got)
		}
		w.Revoke(t, creds.LeaseID).OK(t)
		harness.Eventually(t, 10*time.Second, "the token is revoked at the server", func() bool {
			return server.Protected(t, creds.AccessToken) == ""
		})
	}
}

// A user's authorization is exchanged and refreshed with a key, also after a reload.
func TestKeys_FositeAuthorizesUsers(t *testing.T) {
	t.Parallel()
	w, server, key := newWorldOn(t, harness.StartServer(t)), harness.StartOIDC(t), harness.NewKey(t, "ec")
	server.PutClient(t, "seller", harness.OIDCClient{
		Method: "private_key_jwt", Algorithm: "ES256", Keys: jwks(key.JWK("k", "ES256")), Redirect: "https://client.example/back",
	})
	w.Write(t, "config/shop", w.keyClient(server.HTTP+"/token", "private_key_jwt", key, unverified, fields{
		"authorization_url": server.HTTP + "/authorize", "redirect_uri": "https://client.example/back",
	})).OK(t)
	w.Write(t, "roles/shop/user", fields{"grant_type": "authorization_code", "scope": "read"}).OK(t)
	started := w.authorize(t, "shop/user", nil)
	w.Write(t, "exchange/shop/user", fields{"redirect": server.Authorize(t, started.URL)}).OK(t)
	first := w.Creds(t, "shop/user")
	w.reload(t, fields{"mounts": []string{w.Path + "/"}})
	w.Write(t, "rotate/shop/user", nil).OK(t)
	next := w.Creds(t, "shop/user")
	if got := server.Protected(t, next.AccessToken); got != "seller" || next.AccessToken == first.AccessToken {
		t.Errorf("after the refresh, the token is one of %q", got)
	}
}

// Readers go on while a key is rotated at a server that accepts only the new one from some moment on.
func TestKeys_RotationWithoutDowntime(t *testing.T) {
	t.Parallel()
	w, server := newWorld(t), harness.StartOIDC(t)
	old, next, stray := harness.NewKey(t, "rsa"), harness.NewKey(t, "ec"), harness.NewKey(t, "rsa")
	put := func(keys ...map[string]any) {
		algorithm := keys[len(keys)-1]["alg"].(string)
		server.PutClient(t, "seller", harness.OIDCClient{Method: "private_key_jwt", Algorithm: algorithm, Keys: jwks(keys...)})
	}
	put(old.JWK("old", "RS256"))
	w.Write(t, "config/a", w.keyClient(server.HTTP+"/token", "private_key_jwt", old, fields{"key_id": "old"})).OK(t)
	w.NoteSecret(next.Private, stray.Private)
	rotation := fields{"private_key": next.Private, "key_id": "next"}

	var stop atomic.Bool
	var reads atomic.Int32
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop.Store(true)
	for range 50 {
		readers.Go(func() {
			for !stop.Load() {
				got, err := w.Call(t.Context(), harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/a"})
				if err != nil || got.Status != http.StatusOK {
					t.Errorf("a reader got %v %s", err, got)
					return
				}
				w.NoteSecret(w.CredsOf(t, got).AccessToken)
				reads.Add(1)
			}
		})
	}
	before := w.Creds(t, "a")
	w.Write(t, "config/a", fields{"private_key": stray.Private, "key_id": "stray"}).Refused(t, http.StatusBadRequest, "oauth2 refused the ")
	w.serves(t, "a", before.AccessToken, "after the refused rotation")
	put(next.JWK("next", "ES256"))
	w.Write(t, "config/a", rotation).OK(t)
	after := w.Creds(t, "a")
	seen := reads.Load()
	harness.Eventually(t, 10*time.Second, "readers go on", func() bool { return reads.Load() > seen+20 })
	stop.Store(true)
	readers.Wait()
	if got := server.Protected(t, after.AccessToken); got != "seller" || after.AccessToken == before.AccessToken {
		t.Errorf("after the rotation, the token is one of %q", got)
	}
	mustHave(t, w.Read(t, "config/a"), fields{"key_id": "next"})
}

// A TLS server in front requires the client's certificate. The new one of a rotation is verified before it is stored.
func TestKeys_ClientCertificate(t *testing.T) {
	t.Parallel()
	w, server := newWorldOn(t, harness.StartServer(t)), harness.StartOIDC(t)
	authority := harness.NewCertificate(t, harness.NewKey(t, "ec"), "authority", -time.Hour, time.Hour, nil)
	server.PutClientCA(t, authority.PEM)
	server.PutClient(t, "seller", harness.OIDCClient{Method: "tls_client_auth", Keys: jwks()})
	issue := func(kind string, by *harness.Certificate) *harness.Certificate {
		c := harness.NewCertificate(t, harness.NewKey(t, kind), "seller", -time.Hour, time.Hour, by)
		w.NoteSecret(c.Private)
		return c
	}
	first, next, unknown := issue("rsa", authority), issue("ed25519", authority), issue("ec", nil)
	config := w.keyClient(server.MTLS+"/token", "tls_client_auth", first.Key, fields{
		"client_certificate": first.PEM + authority.PEM, "ca_cert": server.CACert, "reuse_token": false, "revocation_url": server.MTLS + "/revoke",
	})
	w.Write(t, "config/a", config).OK(t)
	expires := first.Expires().UTC().Format(time.RFC3339)
	got := w.Read(t, "config/a")
	mustHave(t, got, fields{"client_certificate_subject": "CN=seller", "client_certificate_expires_at": expires})
	for _, hidden := range []string{"private_key", "client_certificate"} {
		if _, shown := got.Data[hidden]; shown {
			t.Errorf("%s\n\tshows %s", got, hidden)
		}
	}
	mustHave(t, w.Read(t, "status/a"), fields{"client_certificate_expires_at": expires})
	creds := w.Creds(t, "a")
	if got := server.Protected(t, creds.AccessToken); got != "seller" {
		t.Errorf("the token is one of %q", got)
	}
	w.Write(t, "config/a", fields{"private_key": unknown.Private, "client_certificate": unknown.PEM}).
		Refused(t, http.StatusBadRequest, "refused the client", "client certificate")
	w.Write(t, "config/a", fields{"private_key": next.Private, "client_certificate": next.PEM}).OK(t)
	w.reload(t, fields{"mounts": []string{w.Path + "/"}})
	if got := server.Protected(t, w.Creds(t, "a").AccessToken); got != "seller" {
		t.Errorf("after a rotation and a reload, the token is one of %q", got)
	}
	w.Revoke(t, creds.LeaseID).OK(t)
	harness.Eventually(t, 10*time.Second, "the token is revoked at the server", func() bool {
		return server.Protected(t, creds.AccessToken) == ""
	})
	w.Write(t, "config/b", w.oauth2(fields{"token_url": server.MTLS + "/token", "ca_cert": server.CACert})).
		Refused(t, http.StatusBadRequest, "asks for a client certificate")
}

// The commands of docs/operations.md, with the files that openssl would write.
func TestKeys_ByCLI(t *testing.T) {
	t.Parallel()
	w, server, key := newWorld(t), harness.StartOIDC(t), harness.NewKey(t, "ec")
	w.NoteSecret(key.Private)
	server.PutClient(t, "seller", harness.OIDCClient{Method: "private_key_jwt", Algorithm: "ES256", Keys: jwks(key.JWK("key-1", "ES256"))})
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, []byte(key.Private), 0o600); err != nil {
		t.Fatal(err)
	}
	w.WriteByCLI(t, "config/a", "provider=oauth2", "token_url="+server.HTTP+"/token", "client_id=seller", "client_auth=private_key_jwt",
		"private_key=@"+file, "key_id=key-1")
	mustHave(t, w.ReadByCLI(t, "config/a"), fields{"key_id": "key-1"})
	if got := server.Protected(t, w.CredsOf(t, w.ReadByCLI(t, "creds/a")).AccessToken); got != "seller" {
		t.Errorf("the token is one of %q", got)
	}
}

// The simulator has the ways that fosite lacks.
func TestKeys_Simulator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ed := harness.NewKey(t, "ed25519")
	self := harness.NewCertificate(t, harness.NewKey(t, "ec"), "seller", -time.Hour, time.Hour, nil)
	authority := harness.NewCertificate(t, harness.NewKey(t, "ec"), "authority", -time.Hour, time.Hour, nil)
	issued := harness.NewCertificate(t, harness.NewKey(t, "ec"), "seller", -time.Hour, time.Hour, authority)
	secret := "a-secret-of-thirty-two-bytes-" + harness.Random()
	w.NoteSecret(secret)
	tls := fields{"token_url": w.Sim.HTTPS + oauth2TokenPath, "ca_cert": w.Sim.CACert}
	for name, c := range map[string]struct {
		client harness.Client
		config fields
	}{
		"EdDSA": {
			harness.Client{Auth: "private_key_jwt", Keys: map[string]string{"k": ed.Public}},
			w.keyClient(w.Sim.HTTP+oauth2TokenPath, "private_key_jwt", ed),
		},
		"issuer": {
			harness.Client{Auth: "private_key_jwt", Keys: map[string]string{"k": ed.Public}},
			w.keyClient(w.Sim.HTTP+oauth2TokenPath, "private_key_jwt", ed, fields{"issuer": w.Sim.HTTP + "/oauth2", "key_id": "k"}),
		},
		"HS256": {
			harness.Client{Auth: "client_secret_jwt", Secret: secret},
			w.oauth2(fields{"client_auth": "client_secret_jwt", "client_secret": secret}),
		},
		"self-signed": {
			harness.Client{Auth: "self_signed_tls_client_auth", Keys: map[string]string{"k": self.PEM}},
			w.keyClient("", "self_signed_tls_client_auth", self.Key, tls, fields{"client_certificate": self.PEM}),
		},
		"issued": {
			harness.Client{Auth: "tls_client_auth", SubjectDN: "CN=seller", ClientCA: authority.PEM},
			w.keyClient("", "tls_client_auth", issued.Key, tls, fields{"client_certificate": issued.PEM}),
		},
	} {
		w.Sim.AddClient(t, oauth2, name, c.client)
		w.Write(t, "config/"+name, with(c.config, fields{"client_id": name})).OK(t)
		w.provides(t, oauth2, w.Creds(t, name).AccessToken, name)
	}
	if used := map[string]bool{}; true {
		for _, r := range w.Sim.Requests(t, oauth2) {
			if a := r.Form(t).Get("client_assertion"); a != "" && used[a] {
				t.Error("an assertion was sent twice")
			} else {
				used[a] = true
			}
		}
	}
}

// A wrong key or certificate is found before anything is sent or stored.
func TestKeys_WrongKeysAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rsa, ec := harness.NewKey(t, "rsa"), harness.NewKey(t, "ec")
	certificate := func(from, until time.Duration) string {
		return harness.NewCertificate(t, rsa, "seller", from, until, nil).PEM
	}
	valid := certificate(-time.Hour, time.Hour)
	const jwt, tls = "private_key_jwt", "tls_client_auth"
	for name, c := range map[string]struct {
		auth   string
		key    harness.Key
		change fields
		says   string
	}{
		"nonsense":                {jwt, rsa, fields{"private_key": "nonsense"}, "private_key: is not in PEM; "},
		"a short key":             {jwt, harness.NewKey(t, "rsa1024"), nil, "private_key: is an RSA key of 1024 bits; use"},
		"an unsuitable kind":      {jwt, harness.NewKey(t, "p384"), nil, "private_key: is an EC key on P-384, "},
		"an unsuitable algorithm": {jwt, ec, fields{"signing_algorithm": "RS256"}, "signing_algorithm: cannot sign with the private_key, "},
		"a JSON Web Key":          {jwt, rsa, fields{"private_key": `{"kty":"RSA","d":"x"}`}, "private_key: is JSON, and not PEM; "},
		"a key as in JSON":        {jwt, rsa, fields{"private_key": strings.ReplaceAll(rsa.Private, "\n", `\n`)}, `private_key: has \n in place of line breaks; `},
		"a key on one line":       {jwt, rsa, fields{"private_key": strings.ReplaceAll(rsa.Private, "\n", " ")}, "private_key: has no line breaks; "},
		"a byte order mark":       {jwt, rsa, fields{"private_key": "\ufeff" + rsa.Private}, "private_key: begins with a byte order mark; "},
		"an encrypted key":        {jwt, rsa, fields{"private_key": harness.PEM("ENCRYPTED PRIVATE KEY", []byte("x"))}, "private_key: is encrypted; "},
		"a certificate for a key": {jwt, rsa, fields{"private_key": valid}, "private_key: is a certificate; "},
		"no key":                  {jwt, rsa, fields{"private_key": without}, "private_key: is required by "},
		"a secret as well":        {jwt, rsa, fields{"client_secret": demoSecret}, "client_secret: is not used by "},
		"a key that has no use":   {basic, rsa, fields{"client_secret": demoSecret}, "private_key: is not used by "},
		"an ended certificate":    {tls, rsa, fields{"client_certificate": certificate(-2*time.Hour, -time.Hour)}, "client_certificate: has ended at "},
		"a future certificate":    {tls, rsa, fields{"client_certificate": certificate(time.Hour, 2*time.Hour)}, "client_certificate: is not valid before "},
		"another key's":           {tls, ec, fields{"client_certificate": valid}, "client_certificate: belongs to another key "},
		"no certificate":          {tls, rsa, nil, "client_certificate: is required by "},
		"a certificate alone":     {tls, rsa, fields{"client_certificate": valid, "private_key": without}, "private_key: is required by "},
		"a key in it":             {tls, rsa, fields{"client_certificate": valid + rsa.Private}, "client_certificate: contains a private key; "},
		"plain http":              {tls, rsa, fields{"client_certificate": valid}, "token_url: is not an https URL, "},
		"a short secret":          {"client_secret_jwt", rsa, fields{"private_key": without, "client_secret": demoSecret}, "client_secret: is too short for HS256, "},
	} {
		base := w.Sim.HTTPS
		if name == "plain http" {
			base = w.Sim.HTTP
		}
		config := w.keyClient(base+oauth2TokenPath, c.auth, c.key, c.change)
		got := w.Write(t, "config/a", config).Refused(t, http.StatusBadRequest, c.says)
		if !strings.Contains(got.ErrorText(), "; ") {
			t.Errorf("%s: %s\n\twant what to do", name, got)
		}
	}
	w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	w.asked(t, oauth2, 0, "for wrong keys")
}

// A server that repeats the assertion, and one that refuses it, make neither the assertion nor the key appear anywhere.
func TestKeys_AssertionsStayHidden(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w, key := newWorldOn(t, server), harness.NewKey(t, "ec")
	w.Sim.AddClient(t, oauth2, "seller", harness.Client{Auth: "private_key_jwt", Keys: map[string]string{"k": key.Public}})
	config := w.keyClient(w.Sim.HTTP+oauth2TokenPath, "private_key_jwt", key)
	w.Write(t, "config/a", config).OK(t)
	w.Creds(t, "a")
	secret := "a-secret-of-thirty-two-bytes-" + harness.Random()
	w.NoteSecret(secret)
	w.Sim.AddClient(t, oauth2, "hmac", harness.Client{Auth: "client_secret_jwt", Secret: secret})
	w.Write(t, "config/h", w.oauth2(fields{"client_id": "hmac", "client_auth": "client_secret_jwt", "client_secret": secret})).OK(t)
	w.Creds(t, "h")
	var answers []harness.Response
	for _, path := range []string{"config/h", "status/h", "metrics"} {
		answers = append(answers, w.Read(t, path))
	}
	answers = append(answers, w.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/internal/specs/openapi"}))
	for i, kind := range []string{"echo", "vendor_failure", "truncated"} {
		w.Sim.Fault(t, oauth2, fields{"kind": kind, "times": 0})
		name := "config/f" + string(rune('a'+i))
		answers = append(answers, w.Write(t, name, config), w.Write(t, name, with(config, unverified)).OK(t), w.Read(t, "creds/f"+string(rune('a'+i))))
		answers = append(answers, w.Read(t, name), w.Read(t, "status/f"+string(rune('a'+i))), w.Read(t, "status"))
		w.Sim.ClearFaults(t, oauth2)
	}
	sent := 0
	for _, r := range w.Sim.Requests(t, oauth2) {
		assertion := r.Form(t).Get("client_assertion")
		if assertion == "" {
			continue
		}
		sent++
		w.NoteSecret(assertion)
		for _, got := range answers {
			for _, secret := range []string{assertion, assertion[strings.LastIndexByte(assertion, '.')+1:], key.Private, secret} {
				if form := harness.FindSecret(got.Body, secret); form != "" {
					t.Errorf("%s\n\tcontains %q", got, form)
				}
			}
		}
	}
	if sent < 4 {
		t.Errorf("%d assertions were sent, so the test proved nothing", sent)
	}
	server.Stop()
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}
