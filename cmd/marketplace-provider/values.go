// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"vault-plugin-secrets-marketplace/provider"
)

// values are the name=value arguments.
type values struct {
	fields  map[string]string
	params  map[string]string
	secrets map[string]string
	headers map[string]string
}

// fieldNames lists the names without a dot.
func fieldNames() []string {
	return []string{
		"client_id", "client_secret", "client_auth", "scope", "audience", "redirect_uri", "environment", "token_url", "refresh_url",
		"authorization_url", "device_authorization_url", "code", "device_code", "code_verifier", "state", "refresh_token",
		"private_key", "client_certificate", "key_id", "signing_algorithm", "issuer",
	}
}

// fromFile returns a value, or the text of the file that it names with an @, as Vault's CLI does.
func fromFile(value string) (string, error) {
	name, ok := strings.CutPrefix(value, "@")
	if !ok {
		return value, nil
	}
	text, err := os.ReadFile(name)
	return string(text), err
}

func (v *values) set(words []string) (err error) {
	v.fields, v.params, v.secrets, v.headers = map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			return fmt.Errorf("%s: is not name=value", word)
		}
		group, inner, dotted := strings.Cut(name, ".")
		into, known := map[string]map[string]string{"params": v.params, "secret_params": v.secrets, "headers": v.headers}[group]
		switch {
		case dotted && known && inner != "":
			into[inner] = value
		case slices.Contains(fieldNames(), name):
			if v.fields[name], err = fromFile(value); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: is not a name; use one of %s, params.NAME, secret_params.NAME or headers.NAME",
				name, strings.Join(fieldNames(), ", "))
		}
	}
	return nil
}

// request returns the request of a grant with the given values.
func (v values) request(d provider.Definition, grant provider.GrantType) provider.Request {
	f := v.fields
	return provider.Request{
		GrantType: grant, Environment: f["environment"], TokenURL: f["token_url"], RefreshURL: f["refresh_url"],
		AuthorizationEndpoint: f["authorization_url"], DeviceAuthorizationURL: f["device_authorization_url"], ClientID: f["client_id"], ClientSecret: f["client_secret"],
		ClientAuth: provider.ClientAuth(f["client_auth"]), Audience: f["audience"], RedirectURI: f["redirect_uri"],
		Scope: strings.FieldsFunc(f["scope"], func(c rune) bool { return c == ',' || c == ' ' }),
		Code:  f["code"], CodeVerifier: f["code_verifier"], State: f["state"], RefreshToken: f["refresh_token"],
		DeviceCode: f["device_code"],
		Params:     v.params, SecretParams: v.secrets, Headers: v.headers, Timeout: tryTimeout,
		PrivateKey: f["private_key"], ClientCertificate: f["client_certificate"], KeyID: f["key_id"],
		SigningAlgorithm: f["signing_algorithm"], Issuer: f["issuer"],
	}
}

// masks replaces the placeholders of secrets in a text by their names.
type masks map[string]string

func (m masks) text(text string) string {
	for placeholder, shown := range m {
		text = strings.ReplaceAll(text, placeholder, shown)
	}
	return text
}

// masked returns the request of a grant with a placeholder for each secret, and for each other value that is missing.
func (v values) masked(d provider.Definition, grant provider.GrantType) (provider.Request, masks) {
	r, m := v.request(d, grant), make(masks)
	placeholder := func(name string) string {
		text := "XX" + strings.Map(orElse('X'), name) + "XX"
		m[text] = "<" + name + ">"
		return text
	}
	for name, field := range map[string]*string{
		"client_secret": &r.ClientSecret, "code": &r.Code, "code_verifier": &r.CodeVerifier, "state": &r.State,
		"refresh_token": &r.RefreshToken, "access_token": &r.AccessToken, "device_code": &r.DeviceCode,
	} {
		*field = placeholder(name)
	}
	if r.ClientID == "" {
		r.ClientID = placeholder("client_id")
	}
	if r.RedirectURI == "" {
		r.RedirectURI = "https://app.example.com/callback"
	}
	if r.ClientAuth == "" && d.DefaultClientAuth() == "" && len(d.ClientAuth) > 0 {
		r.ClientAuth = d.ClientAuth[0]
	}
	standIn(d, &r)
	r.SecretParams, r.Headers = maps.Clone(r.SecretParams), maps.Clone(r.Headers)
	for _, name := range d.SecretParams(grant) {
		r.SecretParams[name] = ""
	}
	for name := range r.SecretParams {
		r.SecretParams[name] = placeholder("secret_params." + name)
	}
	for i, name := range d.NumericParams(grant) { // a text would not be accepted in their place
		shown := m[placeholder("secret_params."+name)]
		if _, secret := r.SecretParams[name]; secret {
			r.SecretParams[name] = fmt.Sprintf("73519%04d", i)
			m[r.SecretParams[name]] = shown
		}
	}
	r.Network.AllowPrivateAddresses = true // nothing is sent
	for name := range r.Headers {
		r.Headers[name] = placeholder("headers." + name)
	}
	return r, m
}

// orElse returns a function that replaces all but ASCII letters and digits.
func orElse(other rune) func(rune) rune {
	return func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return other
	}
}

// headerOf returns a header's value with masked secrets, also within the credentials of HTTP Basic.
func headerOf(value string, m masks) string {
	if encoded, ok := strings.CutPrefix(value, "Basic "); ok {
		if pair, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			return "Basic base64(" + m.text(string(pair)) + ")"
		}
	}
	return m.text(value)
}

// printMessage prints an HTTP request.
func printMessage(out io.Writer, request *http.Request, m masks) {
	fmt.Fprintf(out, "  %s %s HTTP/1.1\n  Host: %s\n", request.Method, m.text(request.URL.RequestURI()), request.URL.Host)
	for _, name := range slices.Sorted(maps.Keys(request.Header)) {
		fmt.Fprintf(out, "  %s: %s\n", name, headerOf(request.Header.Get(name), m))
	}
	if body := bodyOf(request); body != "" {
		fmt.Fprintf(out, "\n  %s\n", m.text(body))
	}
}

// bodyOf returns a request's body.
func bodyOf(request *http.Request) string {
	if request.GetBody == nil {
		return ""
	}
	body, err := request.GetBody()
	if err != nil {
		return ""
	}
	text, _ := io.ReadAll(body) // it is in memory
	return string(text)
}

// printCurl prints the command that sends the same request. Secrets are the shell's variables.
func printCurl(out io.Writer, request *http.Request, m masks) {
	shell := make(masks, len(m))
	for placeholder, shown := range m {
		shell[placeholder] = "'\"$" + strings.ToUpper(strings.Map(orElse('_'), strings.Trim(shown, "<>"))) + "\"'"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "curl -X %s %s", request.Method, quoted(request.URL.String(), shell))
	for _, name := range slices.Sorted(maps.Keys(request.Header)) {
		value := request.Header.Get(name)
		if encoded, ok := strings.CutPrefix(value, "Basic "); ok {
			if pair, err := base64.StdEncoding.DecodeString(encoded); err == nil {
				unescaped, err := url.QueryUnescape(string(pair))
				if err != nil {
					unescaped = string(pair)
				}
				fmt.Fprintf(&b, " \\\n    -u %s", quoted(unescaped, shell))
				continue
			}
		}
		fmt.Fprintf(&b, " \\\n    -H %s", quoted(name+": "+value, shell))
	}
	if body := bodyOf(request); body != "" {
		fmt.Fprintf(&b, " \\\n    --data %s", quoted(body, shell))
	}
	fmt.Fprintf(out, "\n  %s\n", b.String())
}

// quoted returns a text in the shell's quotation marks, with variables in place of secrets.
func quoted(text string, m masks) string {
	return m.text("'" + strings.ReplaceAll(text, "'", `'\''`) + "'")
}
