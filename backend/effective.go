// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"strings"
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
	if algorithm := c.Request(settings.Network()).EffectiveAlgorithm(d); algorithm != "" {
		effective["signing_algorithm"] = algorithm
	}
	for field, endpoint := range c.Request(settings.Network()).Endpoints(d) {
		effective[field] = endpoint
	}
	refreshBefore := c.RefreshBefore
	if c.MaxExpiresIn > 0 {
		refreshBefore = min(refreshBefore, c.MaxExpiresIn/2)
	}
	for field, value := range map[string]int64{
		"default_expires_in":       seconds(c.DefaultExpiresIn, d.Response.DefaultExpiresIn),
		"max_expires_in":           seconds(c.MaxExpiresIn, 0),
		"refresh_token_expires_in": seconds(c.RefreshTokenExpiresIn, d.RefreshTokens.ExpiresIn),
		"refresh_before":           seconds(refreshBefore, 0),
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

// EffectiveOfRole returns the values that take effect for a role, by the names of its fields: the role's, or else its config's.
func (e *Engine) EffectiveOfRole(ctx context.Context, config string, role *Role) (map[string]any, error) {
	c, err := e.requireConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	merged := c.With(role)
	effective := map[string]any{"ttl": "the token's remaining life"}
	for field, value := range map[string]string{
		"scope": strings.Join(merged.Scope, " "), "audience": merged.Audience, "redirect_uri": merged.RedirectURI,
	} {
		if value != "" {
			effective[field] = value
		}
	}
	if len(merged.Params) > 0 {
		effective["params"] = merged.Params
	}
	if ttl := cmp.Or(min(role.TTL, c.TTL), role.TTL, c.TTL); ttl > 0 { // zero means no limit
		effective["ttl"] = int64(ttl / time.Second)
	}
	return effective, nil
}
