// SPDX-License-Identifier: MPL-2.0

// Command marketplace-provider checks a definition of a provider, shows the token requests that it describes, and reads sample
// responses.
//
//	marketplace-provider check FILE [-catalog] [-answer FILE] [-grant TYPE] [name=value …]
//	marketplace-provider try FILE -url http://127.0.0.1:… [-grant TYPE] [name=value …]
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	marketplace "vault-plugin-secrets-marketplace"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	exitOK = iota
	exitFailure
	exitUsage
)

const usage = `usage:
  marketplace-provider check FILE [-catalog] [-answer FILE] [-grant TYPE] [name=value …]
        Checks a definition, and shows the request of each grant. With -answer, it also reads
        a response, which is a body or a whole HTTP message. With -catalog, the definition
        needs a title, evidence of each fact, and the name of its file, as those of the catalog
        do. So does one in a folder that is named catalog.
  marketplace-provider try FILE -url http://127.0.0.1:… [-grant TYPE] [name=value …]
        Sends the request to a server on loopback, and shows the token or the error.

The names are the fields of config/: client_id, client_secret, scope, audience, redirect_uri,
environment, token_url, client_auth, private_key, client_certificate, key_id, signing_algorithm,
issuer, params.NAME, secret_params.NAME and headers.NAME. Further names are code, code_verifier,
state and refresh_token. A value @FILE is read from that file. Secrets are never shown.
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// command is what the command line asks for.
type command struct {
	try     bool
	catalog bool // checks the definition as one of the catalog
	file    string
	answer  string
	grant   string
	url     string
	values  values
}

// run returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	c, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "marketplace-provider: %v\n%s", err, usage)
		return exitUsage
	}
	if err := c.run(stdout); err != nil {
		fmt.Fprintf(stderr, "%v\n", err)
		return exitFailure
	}
	return exitOK
}

// parse parses the command line. Flags and values can stand in any order after the file.
func parse(args []string) (command, error) {
	var c command
	if len(args) == 0 || args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help" {
		return c, flag.ErrHelp
	}
	if args[0] != "check" && args[0] != "try" {
		return c, errors.New("the first word must be check or try")
	}
	c.try = args[0] == "try"
	flags := flag.NewFlagSet("marketplace-provider", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	if c.try {
		flags.StringVar(&c.url, "url", "", "")
	} else {
		flags.StringVar(&c.answer, "answer", "", "")
		flags.BoolVar(&c.catalog, "catalog", false, "")
	}
	flags.StringVar(&c.grant, "grant", "", "")
	var words []string
	for rest := args[1:]; len(rest) > 0; {
		if err := flags.Parse(rest); err != nil {
			return c, err
		}
		if rest = flags.Args(); len(rest) > 0 {
			words, rest = append(words, rest[0]), rest[1:]
		}
	}
	if len(words) == 0 || strings.Contains(words[0], "=") {
		return c, errors.New("name the file with the definition")
	}
	c.file = words[0]
	if c.try && c.url == "" {
		return c, errors.New("-url is required; name a server on loopback")
	}
	return c, c.values.set(words[1:])
}

func (c command) run(out io.Writer) error {
	text, err := os.ReadFile(c.file)
	if err != nil {
		return err
	}
	d, err := c.parse(text)
	if err != nil {
		return fmt.Errorf("%s is not a valid definition:\n%w", c.file, err)
	}
	grants, err := c.grants(d)
	if err != nil {
		return err
	}
	if c.try {
		return c.send(out, d, grants[0])
	}
	fmt.Fprintf(out, "%s is valid: %s (%s)\n", c.file, d.Title, d.Name)
	for _, grant := range grants {
		c.show(out, d, grant)
	}
	if c.answer == "" {
		return nil
	}
	return c.read(out, d, grants[0])
}

// parse parses the definition. One of the catalog has the name of its file.
func (c command) parse(text []byte) (provider.Definition, error) {
	path, err := filepath.Abs(c.file)
	if err != nil {
		return provider.Definition{}, err
	}
	if c.try || !c.catalog && filepath.Base(filepath.Dir(path)) != "catalog" {
		return marketplace.ParseDefinition(text)
	}
	d, err := marketplace.ParseCatalogDefinition(text)
	if file := filepath.Base(path); d.Name != "" && file != d.Name+".yaml" {
		err = errors.Join(err, fmt.Errorf("name: is %s, but the file is %s; rename one of the two", d.Name, file))
	}
	return d, err
}

// grants returns the grant types to look at: the one that the command line names, or all.
func (c command) grants(d provider.Definition) ([]provider.GrantType, error) {
	var all []provider.GrantType
	for _, grant := range []provider.GrantType{provider.ClientCredentials, provider.AuthorizationCode, provider.DeviceCode, provider.RefreshToken} {
		if !d.Has(grant) {
			continue
		}
		if grant == provider.DeviceCode {
			all = append(all, provider.DeviceAuthorization)
		}
		all = append(all, grant)
	}
	if d.Revocation != nil {
		all = append(all, provider.Revocation)
	}
	if c.grant == "" {
		return all, nil
	}
	if !slices.Contains(all, provider.GrantType(c.grant)) {
		return nil, fmt.Errorf("-grant: %s has no grant of that type; use one of %v", d.Name, all)
	}
	return []provider.GrantType{provider.GrantType(c.grant)}, nil
}

// show prints the request of a grant, as an HTTP message and as a command.
func (c command) show(out io.Writer, d provider.Definition, grant provider.GrantType) {
	fmt.Fprintf(out, "\n%s\n", grant)
	request, masks := c.values.masked(d, grant)
	if grant == provider.AuthorizationCode {
		target, err := request.AuthorizationURL(d, "STATE", challengeOf(d))
		if err != nil {
			fmt.Fprintf(out, "  no authorization URL yet: %v\n", err)
		} else {
			fmt.Fprintf(out, "  # The user opens this URL:\n  %s\n", masks.text(target))
		}
	}
	message, err := request.Message(d)
	if err != nil {
		fmt.Fprintf(out, "  no request yet: %v\n", err)
		return
	}
	maskAssertion(message, masks)
	printMessage(out, message, masks)
	printCurl(out, message, masks)
}

// challengeOf returns a placeholder for the code challenge; empty if the provider takes none.
func challengeOf(d provider.Definition) string {
	if d.Authorization.PKCE.Used() {
		return "CODE_CHALLENGE"
	}
	return ""
}

// read prints what a sample response means.
func (c command) read(out io.Writer, d provider.Definition, grant provider.GrantType) error {
	text, err := os.ReadFile(c.answer)
	if err != nil {
		return err
	}
	response, err := parseResponse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", c.answer, err)
	}
	request, _ := c.values.masked(d, grant)
	token, err := provider.Read(d, request, response)
	fmt.Fprintf(out, "\n%s as a response to %s (HTTP %d)\n", c.answer, grant, response.StatusCode)
	return printResult(out, token, err)
}

// parseResponse parses a whole HTTP message, or a body with status 200.
func parseResponse(text []byte) (*http.Response, error) {
	if !bytes.HasPrefix(text, []byte("HTTP/")) {
		return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: io.NopCloser(bytes.NewReader(text))}, nil
	}
	head, body, ok := bytes.Cut(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\n\n"))
	if !ok {
		return nil, errors.New("has no empty line between the header and the body")
	}
	head = append(bytes.ReplaceAll(head, []byte("\n"), []byte("\r\n")), "\r\n\r\n"...)
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil {
		return nil, errors.New("is not an HTTP response")
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// tryTimeout bounds a request to loopback.
const tryTimeout = 10 * time.Second

// send sends the request of a grant to a server on loopback.
func (c command) send(out io.Writer, d provider.Definition, grant provider.GrantType) error {
	target, err := url.Parse(c.url)
	if err != nil || target.Scheme != "http" || !isLoopback(target.Hostname()) {
		return errors.New("-url: is not the URL of a server on loopback; use one that begins with http://127.0.0.1")
	}
	request := c.values.request(d, grant)
	request.TokenURL, request.RefreshURL, request.DeviceAuthorizationURL, request.Timeout = c.url, c.url, c.url, tryTimeout
	request.Network.AllowPrivateAddresses = true
	client := provider.NewClient(provider.Options{UserAgent: "marketplace-provider", Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }})
	token, err := client.Do(context.Background(), d, request)
	fmt.Fprintf(out, "%s, sent to %s\n", grant, target.Redacted())
	return printResult(out, token, err)
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// printResult prints a token without its secrets, or returns the error.
func printResult(out io.Writer, token provider.Token, err error) error {
	if err != nil {
		return fmt.Errorf("  error: %w", err)
	}
	if token.Device != nil {
		fmt.Fprintf(out, "  user_code      %s\n  verification   %s\n  interval       %s\n", token.Device.UserCode, token.Device.VerificationURI, token.Device.Interval)
		return nil
	}
	fmt.Fprintf(out, "  access_token   %d characters\n", len(token.AccessToken))
	for _, line := range []struct{ name, text string }{
		{"token_type", token.TokenType},
		{"lifetime", token.Lifetime.Round(time.Second).String()},
		{"scope", token.Scope},
	} {
		if line.text != "" {
			fmt.Fprintf(out, "  %-14s %s\n", line.name, line.text)
		}
	}
	if token.RefreshToken != "" {
		fmt.Fprintf(out, "  refresh_token  %d characters\n", len(token.RefreshToken))
	}
	if token.RefreshLifetime > 0 {
		fmt.Fprintf(out, "  refresh_token lives for %s\n", token.RefreshLifetime.Round(time.Second))
	}
	for name, value := range token.Extra {
		fmt.Fprintf(out, "  %-14s %v\n", name, value)
	}
	return nil
}
