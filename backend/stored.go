// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	// minStoredLifetime is the shortest lifetime of a token that is stored. A shorter one hardly outlives a restart.
	minStoredLifetime = 2 * time.Minute
	// maxStoredLifetime is the longest lifetime of a stored token that is believed.
	maxStoredLifetime = 10 * 365 * 24 * time.Hour
	// maxTokenWrites bounds the writes of tokens in progress.
	maxTokenWrites = 8
	// tokenWriteTimeout bounds the wait for one of them.
	tokenWriteTimeout = 10 * time.Second
)

// storedTokens keeps current tokens in the mount's storage, so that a restart asks no provider for a token that is still
// valid. It writes in the background. A write that fails costs a token request after the next restart, and nothing else.
//
// A token is written, and deleted, under the storage lock of its config. So no token is left behind that a concurrent write
// of the config has made useless.
type storedTokens struct {
	store    *store.Store
	settings *settingsCache
	life     *lifetime.Lifetime
	logger   hclog.Logger
	// sweepDue says that a write of the settings could not delete all stored tokens.
	sweepDue atomic.Bool

	mu sync.Mutex // guards what follows
	// waiting holds the newest token of each config and role that is not written yet.
	waiting map[store.Key]*tokenWrite
	// writing holds what the writers have taken, by key; nil: a writer still waits for the config's lock.
	writing map[store.Key]*tokenWrite
	// unusable holds the keys of stored tokens that cannot be used, so that each is reported once.
	unusable map[store.Key]bool
}

// tokenWrite is the write of a token. done is closed when it has ended.
type tokenWrite struct {
	token *store.Token
	done  chan struct{}
}

// ownerOf returns what the tokens of a config, or of a role of it, are minted for.
func ownerOf(c *Config, role *Role, d provider.Definition) store.Owner {
	owner := store.Owner{ConfigID: c.ID, Generation: c.Generation, Definition: d.Digest()}
	if role != nil {
		owner.RoleID, owner.RoleGeneration = role.ID, role.TokenGeneration()
	}
	return owner
}

// load returns the stored token of a fetch while it is valid, else nil. It does not fail, because without a stored token the
// provider is asked for one. doubtful says that another read of the storage may find a valid token.
func (s *storedTokens) load(ctx context.Context, p *prepared) (token *Token, doubtful bool) {
	key := p.key
	stored, err := s.store.Token(ctx, key)
	switch {
	case err != nil && ctx.Err() == nil:
		s.reportUnusable(key, err.Error())
		return nil, true
	case err != nil:
		return nil, true
	case stored == nil:
		return nil, false
	}
	now := time.Now()
	if problem := problemOf(stored, now); problem != "" {
		s.reportUnusable(key, problem)
		return nil, true
	}
	if stored.Owner != p.owner.String() {
		return nil, true
	}
	token = tokencache.NewToken(
		provider.Token{
			AccessToken: stored.AccessToken, TokenType: stored.TokenType, Scope: stored.Scope, Extra: stored.Extra,
			SentAt:   now.Add(stored.SentAt.Sub(now.Round(0))), // with a reading of the monotonic clock
			Lifetime: stored.ExpiresAt.Sub(stored.SentAt),
		},
		tokencache.Origin{
			ID: store.NewID(), Owner: stored.Owner, ObtainedAt: stored.ObtainedAt, Stored: true, Repeats: stored.Repeats,
			Fingerprint: fingerprint(p.config.ID, stored.AccessToken),
		},
		p.policy(),
	)
	if !token.Valid(now) {
		s.logger.Debug("a stored token has expired, so another one is minted", "config", key.Config, "role", key.Role)
		return nil, false
	}
	return token, false
}

// problemOf returns what is wrong with a stored token; empty if nothing is.
func problemOf(t *store.Token, now time.Time) string {
	switch {
	case t.Format < 1 || t.Owner == "":
		return "it was not written by this plugin"
	case t.AccessToken == "":
		return "it has no access token"
	case !provider.IsExtra(t.Extra):
		return "it has a member that Vault cannot return"
	case t.SentAt.After(now):
		return "its request was sent in the future"
	case !t.ExpiresAt.After(t.SentAt):
		return "it expires before its request was sent"
	case t.ExpiresAt.Sub(t.SentAt) > maxStoredLifetime:
		return "it expires too far in the future"
	case t.ObtainedAt.After(t.SentAt):
		return "it was obtained after its request was sent"
	}
	return ""
}

// reportUnusable logs why a stored token cannot be used, once until it is replaced.
func (s *storedTokens) reportUnusable(key store.Key, problem string) {
	s.mu.Lock()
	known := s.unusable[key]
	if s.unusable == nil {
		s.unusable = make(map[store.Key]bool)
	}
	s.unusable[key] = true
	s.mu.Unlock()
	if !known {
		s.logger.Warn("a stored token cannot be used, so another one is minted", "config", key.Config, "role", key.Role, "problem", problem)
	}
}

// save stores a token in the background. Until it is written, a newer one of the same config or role replaces it.
func (s *storedTokens) save(key tokencache.Key, token *Token) {
	if token.Lifetime < minStoredLifetime {
		return
	}
	stored := &store.Token{
		Owner: token.Owner, AccessToken: token.AccessToken, TokenType: token.TokenType, Scope: token.Scope, Extra: maps.Clone(token.Extra),
		ObtainedAt: wall(token.ObtainedAt), SentAt: wall(token.SentAt), ExpiresAt: wall(token.ExpiresAt()), Repeats: token.Repeats,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if waiting, ok := s.waiting[store.Key(key)]; ok {
		waiting.token = stored
		return
	}
	if s.waiting == nil {
		s.waiting, s.writing = make(map[store.Key]*tokenWrite), make(map[store.Key]*tokenWrite)
	}
	s.waiting[store.Key(key)] = &tokenWrite{token: stored, done: make(chan struct{})}
	s.startLocked()
}

// wall returns a time without its reading of the monotonic clock, as it is stored.
func wall(t time.Time) time.Time {
	return t.Round(0).UTC()
}

// startLocked starts as many writers as may run. If the mount is closing, those that run already write what waits.
func (s *storedTokens) startLocked() {
	for len(s.writing) < maxTokenWrites {
		key, ok := s.nextLocked()
		if !ok {
			return
		}
		if s.life.Go(func() { s.write(key) }) != nil {
			break
		}
		s.writing[key] = nil
	}
	if len(s.writing) == 0 {
		s.dropAllLocked()
	}
}

// nextLocked returns the key of a waiting token that no writer has taken on.
func (s *storedTokens) nextLocked() (key store.Key, ok bool) {
	for key := range s.waiting {
		if _, ok := s.writing[key]; !ok {
			return key, true
		}
	}
	return store.Key{}, false
}

// write writes the waiting token of a config or role, and then others while any wait.
func (s *storedTokens) write(key store.Key) {
	for more := true; more; key, more = s.next(key) {
		err := s.life.Protect(func() error { return s.writeWaiting(key) })
		if err != nil && s.life.Context().Err() == nil {
			s.logger.Warn("a token could not be stored, so a restart mints another one", "config", key.Config, "role", key.Role, "error", err)
		}
	}
}

// next ends a write, and returns the key of the next token to write.
func (s *storedTokens) next(written store.Key) (key store.Key, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writing, written)
	if s.life.Context().Err() != nil {
		s.dropAllLocked()
		return key, false
	}
	if key, more = s.nextLocked(); more {
		s.writing[key] = nil
	}
	return key, more
}

// writeWaiting stores the waiting token, unless a write of its config or the settings has made it useless since.
func (s *storedTokens) writeWaiting(key store.Key) error {
	ctx, cancel := context.WithTimeout(s.life.Context(), tokenWriteTimeout)
	defer cancel()
	release, err := s.store.Lock(ctx, store.ConfigLock(key.Config))
	if err == nil {
		defer release()
	}
	written := s.take(key)
	if written == nil {
		return nil
	}
	defer close(written.done)
	if err != nil {
		return err
	}
	settings, err := s.settings.get(ctx)
	if err != nil || !settings.StoresTokens() {
		return err
	}
	return s.store.PutToken(ctx, key, written.token)
}

// take takes the waiting token of a config or role. It returns nil if there is none any longer.
func (s *storedTokens) take(key store.Key) *tokenWrite {
	s.mu.Lock()
	defer s.mu.Unlock()
	written, ok := s.waiting[key]
	if !ok {
		return nil
	}
	delete(s.waiting, key)
	delete(s.unusable, key)
	s.writing[key] = written
	return written
}

// await waits until the current token of a config or role is written, or its write has failed.
func (s *storedTokens) await(ctx context.Context, key store.Key) {
	s.mu.Lock()
	write := s.waiting[key]
	if write == nil {
		write = s.writing[key]
	}
	s.mu.Unlock()
	if write == nil {
		return
	}
	select {
	case <-write.done:
	case <-ctx.Done():
	}
}

// drop drops the waiting token of a config or role.
func (s *storedTokens) drop(key store.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if write, ok := s.waiting[key]; ok {
		close(write.done)
		delete(s.waiting, key)
	}
	delete(s.unusable, key)
}

// dropAllLocked drops all waiting tokens, because the mount is closing.
func (s *storedTokens) dropAllLocked() {
	for key, write := range s.waiting {
		close(write.done)
		delete(s.waiting, key)
	}
}

// remove deletes the stored token of a config or role, and the one that waits. Hold the config's lock.
func (s *storedTokens) remove(ctx context.Context, key store.Key) error {
	s.drop(key)
	return s.store.DeleteToken(ctx, key)
}

// discard is remove for a caller that does not hold the config's lock.
func (s *storedTokens) discard(ctx context.Context, key store.Key) error {
	release, err := s.store.Lock(ctx, store.ConfigLock(key.Config))
	if err != nil {
		return err
	}
	defer release()
	return s.remove(ctx, key)
}

// removeAll deletes the stored tokens of a config and its roles, and those that wait, but for those of the given config, if
// any. Hold the config's lock.
func (s *storedTokens) removeAll(ctx context.Context, name string, successor *Config) error {
	s.mu.Lock()
	for key, write := range s.waiting {
		if key.Config == name && (successor == nil || !mintedFor(write.token, successor)) {
			close(write.done)
			delete(s.waiting, key)
		}
	}
	maps.DeleteFunc(s.unusable, func(key store.Key, _ bool) bool { return key.Config == name })
	s.mu.Unlock()
	keys, err := s.store.Tokens(ctx, name)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := s.store.DeleteToken(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// mintedFor reports whether a token was minted for this generation of a config.
func mintedFor(t *store.Token, c *Config) bool {
	return strings.HasPrefix(t.Owner, c.ID+"/"+c.Generation+"/")
}

// sweep deletes all stored tokens, as long as the settings keep tokens in memory alone.
func (s *storedTokens) sweep(ctx context.Context) error {
	keys := s.inProgress() // before the listing, which does not show them if they are written afterwards
	listed, err := s.store.Tokens(ctx, "")
	if err != nil {
		return err
	}
	for _, key := range append(keys, listed...) {
		if done, err := s.sweepOne(ctx, key); done || err != nil {
			return err
		}
	}
	return nil
}

// inProgress returns the keys that writers have taken on. A writer may have read the settings before they changed.
func (s *storedTokens) inProgress() []store.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.writing))
}

// sweepOne deletes a stored token, or reports that tokens are to be stored again.
func (s *storedTokens) sweepOne(ctx context.Context, key store.Key) (done bool, err error) {
	release, err := s.store.Lock(ctx, store.ConfigLock(key.Config))
	if err != nil {
		return false, err
	}
	defer release()
	settings, err := s.settings.get(ctx) // under the lock, as a writer does
	if err != nil || settings.StoresTokens() {
		return true, err
	}
	return false, s.store.DeleteToken(ctx, key)
}
