// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"time"
)

// Effective returns the values that take effect for a config, by the names of its fields. They are the config's, or else those of
// its provider or the engine. Durations are in seconds. It is nil if the provider's definition cannot be used.
func (e *Engine) Effective(ctx context.Context, c *Config) (map[string]any, error) {
	set, err := e.definitions.get(ctx)
	if err != nil {
		return nil, err
	}
	d, err := set.require(c.Provider)
	if err != nil {
		return nil, nil // a request reports it
	}
	settings, err := e.store.Settings(ctx)
	if err != nil {
		return nil, err
	}
	seconds := func(set time.Duration, of int64) int64 { return cmp.Or(int64(set/time.Second), of) }
	effective := map[string]any{
		"client_auth":     string(c.EffectiveClientAuth(d)),
		"request_timeout": seconds(c.RequestTimeout, 0),
		"refresh_before":  "20% of the token's lifetime",
		"ttl":             "the token's remaining life",
	}
	for field, endpoint := range c.Request(settings.Network()).Endpoints(d) {
		effective[field] = endpoint
	}
	for field, value := range map[string]int64{
		"default_expires_in":       seconds(c.DefaultExpiresIn, d.Response.DefaultExpiresIn),
		"max_expires_in":           seconds(c.MaxExpiresIn, 0),
		"refresh_token_expires_in": seconds(c.RefreshTokenExpiresIn, d.RefreshTokens.ExpiresIn),
		"refresh_before":           seconds(c.RefreshBefore, 0),
		"ttl":                      seconds(c.TTL, 0),
	} {
		if value > 0 {
			effective[field] = value
		}
	}
	if policy := policyOf(c, nil, d); policy.LimitedOverlap {
		effective["token_overlap"] = int64(policy.Overlap / time.Second)
	}
	return effective, nil
}
