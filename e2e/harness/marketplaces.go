// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"net/http"
	"testing"
)

// Marketplace is a simulated marketplace, as it describes itself. Its paths are those of the simulator.
type Marketplace struct {
	Name         string `json:"name"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	RedirectURI  string `json:"redirect_uri"`
	RefreshToken string `json:"refresh_token"`
	// Scopes are those that the client may ask for.
	Scopes    []string `json:"scopes"`
	Token     string   `json:"token"`
	Refresh   string   `json:"refresh"`
	Authorize string   `json:"authorize"`
	Protected string   `json:"protected"`
	API       []struct {
		Name  string `json:"name"`
		Value any    `json:"value"`
	} `json:"api"`
	Requests []struct {
		Needs Needs `json:"needs"`
	} `json:"requests"`
	Authorization struct {
		Needs Needs `json:"needs"`
	} `json:"authorization"`
}

// Needs are what requests of a marketplace must have, beside the client and the grant.
type Needs struct {
	Parameters       map[string]string `json:"parameters"`
	SecretParameters map[string]string `json:"secret_parameters"`
	Constants        map[string]string `json:"constants"`
	Headers          map[string]string `json:"headers"`
	Scope            string            `json:"scope"`
	Audience         string            `json:"audience"`
}

// Marketplaces returns the marketplaces that the simulator has as data, by name.
func (s *Simulator) Marketplaces(t testing.TB) map[string]Marketplace {
	t.Helper()
	var all []Marketplace
	s.control(t, http.MethodGet, "marketplaces", nil, &all)
	byName := make(map[string]Marketplace, len(all))
	for _, m := range all {
		byName[m.Name] = m
	}
	return byName
}

// Open sends a request with the given headers to a marketplace's protected endpoint, and returns the status.
func (s *Simulator) Open(t testing.TB, m Marketplace, headers map[string]string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.HTTP+m.Protected, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range m.API { // what an application knows, such as a key of its own
		if text, known := own.Value.(string); known {
			req.Header.Set(own.Name, text)
		}
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatalf("the protected endpoint: %v", err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
