// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestProvidersAreListed(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	got := m.List(t, "providers").OK(t)
	keys, _ := got.Answer.Data["keys"].([]any)
	for _, name := range []any{kleinanzeigen, oauth2} {
		if !slices.Contains(keys, name) {
			t.Errorf("%s\n\twant %s listed", got, name)
		}
	}
}

func TestAProviderIsRead(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	for _, name := range []string{kleinanzeigen, oauth2} {
		got := m.Read(t, "providers/"+name).OK(t)
		for _, field := range []string{"documentation", "environments", "grants", "parameters", "evidence"} {
			if _, has := got.Answer.Data[field]; !has {
				t.Errorf("%s\n\twant %s", got, field)
			}
		}
	}
	got := m.Read(t, "providers/kleinanzeigen").OK(t)
	for _, fact := range []string{
		"https://developer.kleinanzeigen.de/v2/oidc/token", "client_credentials", "consumer-goods-api", "production",
	} {
		if !strings.Contains(string(got.Body), fact) {
			t.Errorf("%s\n\twant the fact %s", got, fact)
		}
	}
	if text := fmt.Sprint(got.Answer.Data["documentation"]); !strings.HasPrefix(text, "https://") {
		t.Errorf("documentation is %q, want where the vendor's is", text)
	}
}

func TestAnUnknownProviderIsNotFound(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	m.Read(t, "providers/nobody").Refused(t, http.StatusNotFound)
}

func TestBuiltInProvidersAreReadOnly(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	before := m.Read(t, "providers/kleinanzeigen").OK(t)
	for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodDelete} {
		got := m.Send(t, method, "providers/kleinanzeigen", fields{"definition": "{}"})
		if got.Status < 400 || got.Status >= 500 {
			t.Errorf("%s\n\twant it refused", got)
		}
	}
	if after := m.Read(t, "providers/kleinanzeigen").OK(t); !equal(any(after.Answer.Data), before.Answer.Data) {
		t.Errorf("the provider reads\n\t%s\n\tafter writes that were refused; before:\n\t%s", after.Body, before.Body)
	}
}
