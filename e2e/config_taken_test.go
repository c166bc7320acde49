// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"slices"
	"testing"
)

// A field that the provider takes is stored and sent (see TestMarketplaces_TokenRequestMatchesDocs). A field that would
// never be sent is refused with an error that names field and provider.
func TestConfig_FieldUnknownToProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	given := fields{"scope": []string{"read"}, "redirect_uri": "https://client.example/callback", "audience": "an-api"}
	takes := map[string][]string{
		marktplaats:  {"scope", "redirect_uri"},
		tweedehands:  {"scope", "redirect_uri"},
		deuxiememain: {"scope", "redirect_uri"},
		accounda:     nil,
		fuuffy:       nil,
		winkelstraat: nil,
		oauth2:       {"scope", "redirect_uri", "audience"},
	}
	for provider, taken := range takes {
		config := w.at(provider)
		for field, value := range given {
			w.Write(t, "config/"+provider, config).OK(t)
			before := w.Read(t, "config/"+provider).OK(t)
			got := w.Write(t, "config/"+provider, fields{field: value})
			if slices.Contains(taken, field) {
				got.OK(t)
				mustHave(t, w.Read(t, "config/"+provider), fields{field: value})
				continue
			}
			saysExactly(t, got, http.StatusBadRequest, field+": cannot be set, because "+provider+" does not use it; leave the field out")
			unchanged(t, w, "config/"+provider, before, got)
		}
	}
}

// A config accepts only the client authentication method that the vendor documents.
func TestConfig_ClientAuthMustMatchVendor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for provider := range marketplaces {
		accepted := post
		if provider == winkelstraat {
			accepted = basicRaw
		}
		for _, auth := range []string{basic, basicRaw, post, "client_secret_json", "client_secret_query", "none"} {
			got := w.Write(t, "config/a", w.at(provider, unverified, fields{"client_auth": auth}))
			if auth == accepted {
				got.OK(t)
				mustHave(t, w.Read(t, "config/a"), fields{"client_auth": auth})
				w.Delete(t, "config/a").OK(t)
				continue
			}
			got.Refused(t, http.StatusBadRequest, "client_auth: is not a method that ", "use "+accepted)
			w.Read(t, "config/a").Refused(t, http.StatusNotFound)
		}
	}
}
