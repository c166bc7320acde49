// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// tokenEndpoint starts a server that answers every request with the same response.
func tokenEndpoint(status int, body string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
}

// definition returns a built-in definition.
func definition(name string) provider.Definition {
	catalog, err := provider.Builtin()
	if err != nil {
		log.Fatal(err)
	}
	d, ok := catalog.Lookup(name)
	if !ok {
		log.Fatal("there is no provider ", name)
	}
	return d
}

func ExampleClient_Do() {
	server := tokenEndpoint(http.StatusOK, `{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"Bearer","expires_in":3600}`)
	defer server.Close()

	client := provider.NewClient(provider.Options{UserAgent: "example/1.0"})
	token, err := client.Do(context.Background(), definition("oauth2"), provider.Request{
		GrantType:    provider.ClientCredentials,
		TokenURL:     server.URL,
		ClientID:     "shop",
		ClientSecret: "s3cret",
		ClientAuth:   provider.AuthBasic,
		Timeout:      10 * time.Second,
		Network:      provider.NetworkPolicy{AllowPrivateAddresses: true}, // the server is on loopback
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(token.TokenType, token.AccessToken)
	fmt.Println("expires in", token.Lifetime)
	// Output:
	// Bearer 2YotnFZFEjr1zCsicMWpAA
	// expires in 1h0m0s
}

// A refresh can fail and still return a refresh token. Store it before you handle the error: the one that was sent may be
// consumed.
func ExampleClient_Do_refreshTokenWithError() {
	server := tokenEndpoint(http.StatusOK, `{"access_token":"2YotnFZFEjr1zCsicMWpAA","refresh_token":"tGzv3JOkF0XG5Qx2TlKWIA"}`)
	defer server.Close()

	client := provider.NewClient(provider.Options{})
	token, err := client.Do(context.Background(), definition("oauth2"), provider.Request{
		GrantType:    provider.RefreshToken,
		RefreshToken: "8xLOxBtZp8",
		TokenURL:     server.URL,
		ClientID:     "shop",
		ClientAuth:   provider.AuthNone,
		Timeout:      10 * time.Second,
		Network:      provider.NetworkPolicy{AllowPrivateAddresses: true},
	})
	if token.RefreshToken != "" {
		fmt.Println("store", token.RefreshToken)
	}
	var failure *provider.Error
	if errors.As(err, &failure) {
		fmt.Println(failure)
		fmt.Println("permanent:", failure.Kind.Permanent())
		fmt.Println("set DefaultExpiresIn:", failure.Remedy == provider.RemedyLifetime)
	}
	// Output:
	// store tGzv3JOkF0XG5Qx2TlKWIA
	// oauth2 did not return a token (HTTP 200): there is no expires_in in its response
	// permanent: false
	// set DefaultExpiresIn: true
}

func ExampleRequest_AuthorizationURL() {
	target, err := provider.Request{
		AuthorizationEndpoint: "https://auth.example.com/authorize?tenant=7",
		ClientID:              "shop",
		RedirectURI:           "https://app.example.com/callback",
		Scope:                 []string{"orders", "ads"},
	}.AuthorizationURL(definition("oauth2"), "xyz", "")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(target)
	// Output:
	// https://auth.example.com/authorize?tenant=7&client_id=shop&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcallback&response_type=code&scope=orders+ads&state=xyz
}

func ExampleParseDefinition() {
	d, err := provider.ParseDefinition([]byte(`
format: 1
name: shop
title: Shop
documentation: https://shop.example.com/docs
environments: {production: {token_url: "https://shop.example.com/token"}}
client_auth: [client_secret_post]
grants: {client_credentials: {parameters: {audience: {from: audience, required: true}}}}
evidence:
  - facts: [environments, client_auth, grants]
    known_by: documentation
    source: https://shop.example.com/docs
`), provider.ParseOptions{})
	if err != nil {
		log.Fatal(err)
	}
	err = provider.Request{GrantType: provider.ClientCredentials, ClientID: "a", ClientSecret: "b"}.Check(d)
	fmt.Println(err)
	var problem *provider.RequestError
	fmt.Println(errors.As(err, &problem) && problem.Field == "audience")
	// Output:
	// audience: is required by shop
	// true
}
