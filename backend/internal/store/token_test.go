// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// compareKeys orders keys by config and role.
func compareKeys(a, b Key) int {
	return strings.Compare(a.Config+"\x00"+a.Role, b.Config+"\x00"+b.Role)
}

// A stored token comes back as it was, with all digits of its numbers.
func TestToken_RoundTrip(t *testing.T) {
	t.Parallel()
	storage := new(logical.InmemStorage)
	s := New(storage, nil)
	at := time.Date(2026, 7, 1, 12, 0, 0, 123456789, time.UTC)
	want := Token{
		Owner: Owner{"config", "generation", "role", "role generation", "definition"}.String(), AccessToken: "secret", TokenType: "bearer", Scope: "a b",
		Extra:      map[string]any{"id": json.Number("12345678901234567890"), "rate": json.Number("1.50"), "list": []any{json.Number("9007199254740993"), nil}},
		ObtainedAt: at, SentAt: at.Add(time.Minute), ExpiresAt: at.Add(time.Hour), Repeats: true,
	}
	for key, path := range map[Key]string{{"shop", ""}: "token/shop", {"shop", "seller"}: "token/shop/seller"} {
		put := want
		if err := s.PutToken(t.Context(), key, &put); err != nil {
			t.Fatal(err)
		}
		if entry, err := storage.Get(t.Context(), path); err != nil || entry == nil {
			t.Fatalf("%s: %v, %v", path, entry, err)
		}
		want.Format = 1
		got, err := s.Token(t.Context(), key)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v, %v\nwant %+v", path, got, err, want)
		}
		if changed := ChangedAt(path); changed != (Changed{Key: key, Token: true}) {
			t.Errorf("%s belongs to %+v", path, changed)
		}
		if err := s.DeleteToken(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Token(t.Context(), key); err != nil || got != nil {
			t.Errorf("%s after its deletion: %v, %v", path, got, err)
		}
	}
	for _, prefix := range SealWrapped() {
		if strings.HasPrefix("token/shop", prefix) {
			return
		}
	}
	t.Error("tokens are not seal-wrapped")
}

// A list of tokens holds those of a config, and none of another whose name begins or ends in the same way.
func TestTokens_OfAConfig(t *testing.T) {
	t.Parallel()
	s := New(new(logical.InmemStorage), nil)
	all := []Key{{"a", ""}, {"a", "a"}, {"a", "b"}, {"a-b", ""}, {"a-b", "a"}, {"ab", ""}, {"ab", "a"}, {"b", "a"}, {"c", ""}}
	for _, key := range all {
		if err := s.PutToken(t.Context(), key, new(Token)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutConfig(t.Context(), NewConfig("other")); err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string][]Key{
		"":    all,
		"a":   {{"a", ""}, {"a", "a"}, {"a", "b"}},
		"a-b": {{"a-b", ""}, {"a-b", "a"}},
		"ab":  {{"ab", ""}, {"ab", "a"}},
		"c":   {{"c", ""}},
	} {
		got, err := s.Tokens(t.Context(), config)
		slices.SortFunc(got, compareKeys)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", config, got, err, want)
		}
	}
	for _, key := range all {
		keys, err := s.Tokens(t.Context(), key.Config)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys { // one that does not exist may be listed
			if err := s.DeleteToken(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, err := s.Tokens(t.Context(), ""); err != nil || len(got) > 0 {
		t.Errorf("left are %v, %v", got, err)
	}
}

// formatOf returns the format version of a stored entry.
func formatOf(t *testing.T, storage logical.Storage, path string) int {
	t.Helper()
	entry, err := storage.Get(t.Context(), path)
	if err != nil || entry == nil {
		t.Fatalf("%s: %v, %v", path, entry, err)
	}
	var version struct {
		Format int `json:"format"`
	}
	if err := entry.DecodeJSON(&version); err != nil {
		t.Fatal(err)
	}
	return version.Format
}

// A config or settings have the newer format as long as they have a field that version 0.1.0 would drop, and no longer.
func TestStore_FormatFollowsFields(t *testing.T) {
	t.Parallel()
	storage := new(logical.InmemStorage)
	s := New(storage, nil)
	none, overlap, yes, no := time.Duration(0), time.Minute, true, false
	c := NewConfig("shop")
	for _, test := range []struct {
		overlap *time.Duration
		format  int
	}{{nil, 1}, {&overlap, 2}, {nil, 1}, {&none, 2}} {
		c.TokenOverlap = test.overlap
		if err := s.PutConfig(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		loaded, err := s.Config(t.Context(), "shop")
		if got := formatOf(t, storage, "config/shop"); err != nil || got != test.format || !reflect.DeepEqual(loaded.TokenOverlap, test.overlap) {
			t.Errorf("token_overlap %v has format %d, want %d: %v", test.overlap, got, test.format, err)
		}
	}
	for format, c := range map[int]*Config{
		3: {Name: "other", SecretParams: map[string]string{"a": "b"}},
		4: {Name: "other", SecretParams: map[string]string{"a": "b"}, MaxExpiresIn: time.Minute},
		6: {Name: "other", MaxExpiresIn: time.Minute, PrivateKey: "key", DeviceAuthorizationURL: "https://auth.example.com/device"},
	} {
		if err := s.PutConfig(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if got := formatOf(t, storage, "config/other"); got != format {
			t.Errorf("%+v has format %d, want %d", c, got, format)
		}
	}
	for _, c := range []*Config{{ClientCertificate: "c"}, {KeyID: "k"}, {SigningAlgorithm: "a"}, {Issuer: "i"}} {
		c.Name = "other"
		if err := s.PutConfig(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if got := formatOf(t, storage, "config/other"); got != 6 {
			t.Errorf("%+v has format %d, want 6", c, got)
		}
	}
	for _, test := range []struct {
		stores    *bool
		perSecond int
		format    int
	}{{nil, 0, 1}, {&no, 0, 2}, {&yes, 0, 1}, {nil, 5, 2}, {&no, 5, 2}, {nil, 0, 1}} {
		settings, err := s.Settings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		settings.StoreTokens, settings.MaxRequestsPerSecond = test.stores, test.perSecond
		if err := s.PutSettings(t.Context(), settings); err != nil {
			t.Fatal(err)
		}
		loaded, err := s.Settings(t.Context())
		if got := formatOf(t, storage, "settings"); err != nil || got != test.format || loaded.StoresTokens() != settings.StoresTokens() {
			t.Errorf("%+v has format %d, want %d: %v", test, got, test.format, err)
		}
	}
}

// An entry of a newer format than this plugin knows is refused, and kept.
func TestStore_NewerFormatOfEachKind(t *testing.T) {
	t.Parallel()
	storage := new(logical.InmemStorage)
	s := New(storage, nil)
	c := NewConfig("shop")
	for path, test := range map[string]struct {
		newest int
		load   func(ctx context.Context) error
	}{
		StatePath("s"):    {2, func(ctx context.Context) error { _, err := s.Pending(ctx, "s"); return err }},
		"config/shop":     {6, func(ctx context.Context) error { _, err := s.Config(ctx, "shop"); return err }},
		"role/shop/r":     {1, func(ctx context.Context) error { _, err := s.Role(ctx, c, "r"); return err }},
		"token/shop":      {1, func(ctx context.Context) error { _, err := s.Token(ctx, Key{"shop", ""}); return err }},
		"token/shop/r":    {1, func(ctx context.Context) error { _, err := s.Token(ctx, Key{"shop", "r"}); return err }},
		"grant/shop/r":    {2, func(ctx context.Context) error { _, err := s.Grant(ctx, Key{"shop", "r"}); return err }},
		"definition/shop": {1, func(ctx context.Context) error { _, err := s.Definition(ctx, "shop"); return err }},
		"settings":        {2, func(ctx context.Context) error { _, err := s.Settings(ctx); return err }},
	} {
		for _, format := range []int{test.newest, test.newest + 1} {
			entry, err := logical.StorageEntryJSON(path, map[string]any{"format": format})
			if err == nil {
				err = storage.Put(t.Context(), entry)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := test.load(t.Context()); (err != nil) != (format > test.newest) {
				t.Errorf("%s of format %d: %v", path, format, err)
			}
		}
	}
}

// A role of version 0.1.0 has no generation. Its tokens belong to what it says, and to nothing else.
func TestRole_TokenGeneration(t *testing.T) {
	t.Parallel()
	old := func() *Role {
		return &Role{
			ID: "id", GrantType: "client_credentials", Scope: []string{"a", "b"}, Audience: "x",
			Params: map[string]string{"one": "1", "two": "2", "three": "3"}, RedirectURI: "https://app.example/cb",
		}
	}
	generation := old().TokenGeneration()
	for range 20 { // maps have no order
		if again := old().TokenGeneration(); again != generation || again == "" {
			t.Fatalf("%q, then %q", generation, again)
		}
	}
	same := old()
	same.TTL = time.Minute
	if same.TokenGeneration() != generation {
		t.Error("another ttl is another generation")
	}
	for name, change := range map[string]func(r *Role){
		"grant_type":   func(r *Role) { r.GrantType = "refresh_token" },
		"scope":        func(r *Role) { r.Scope = []string{"a"} },
		"joined scope": func(r *Role) { r.Scope = []string{"a b"} },
		"audience":     func(r *Role) { r.Audience = "" },
		"params":       func(r *Role) { r.Params["two"] = "3" },
		"redirect_uri": func(r *Role) { r.RedirectURI = "" },
		"a new one":    func(r *Role) { r.Generation = NewID() },
	} {
		changed := old()
		change(changed)
		if changed.TokenGeneration() == generation {
			t.Errorf("%s: the generation stays", name)
		}
	}
	first, second := &Role{Generation: "g"}, old()
	second.Generation = "g"
	if first.TokenGeneration() != "g" || second.TokenGeneration() != "g" {
		t.Error("a role's own generation does not count")
	}
}
