// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// Play thousands after a change of what the schedules test: go test ./backend -run Schedule -schedules 5000
var (
	schedules = flag.Uint64("schedules", 100, "how many random schedules each test of schedules plays")
	onlySeed  = flag.Int64("seed", -1, "play only the schedule with this seed")
)

// chosenSeeds returns the seeds of the schedules to play, and those that are always played.
func chosenSeeds(always ...uint64) []uint64 {
	if *onlySeed >= 0 {
		return []uint64{uint64(*onlySeed)}
	}
	for seed := range *schedules {
		always = append(always, seed)
	}
	return always
}

// Whatever happens, in whatever order: if the provider loses no response, the engine loses no refresh token and uses none
// twice.
func TestSchedule_LosesNoRefreshToken(t *testing.T) {
	t.Parallel()
	for _, seed := range chosenSeeds(139, 233, 488, 1861) { // each of these has found a bug
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { // the name shows the seed even if the schedule panics
			s := randomSchedule(seed)
			if len(s.play(t)) == 0 {
				return
			}
			s, faults := s.shrink(t)
			t.Errorf("seed %d: %q\nan authorization revokes the grant before: %t%v\nrepeat with: go test ./backend -run Schedule -seed %d",
				seed, faults, s.singleGrant, s.events, seed)
		})
	}
}

// schedule is a role's and a provider's history: a list of events, which may overlap.
type schedule struct {
	singleGrant bool // an authorization revokes the grant before
	events      []event
}

// event is one thing that happens. apply knows the kinds.
type event struct {
	at       time.Duration // since the start
	kind     string
	duration time.Duration
	n        int // chooses among variants of a kind
}

func (e event) String() string {
	return fmt.Sprintf("\n\tat %v %s, %v, %d", e.at, e.kind, e.duration, e.n)
}

// randomSchedule returns the schedule with that seed. The provider's latency stays below a minute, which is longer than
// any request_timeout. If the plugin restarts, it stays below the ten seconds that Close waits for.
func randomSchedule(seed uint64) schedule {
	rng := rand.New(rand.NewPCG(seed, 0))
	upTo := func(long time.Duration) time.Duration {
		return time.Duration(rng.Int64N(int64(long))).Truncate(time.Millisecond)
	}
	kinds := strings.Fields(`read read read read read shared shared impatient impatient rotate rotate torn torn ttl scope config-ttl
		secret verified authorize authorize denied invalidate unwritable grants-unwritable unreadable down latency latency
		failing limited erring erring`)
	var s schedule
	if s.singleGrant = rng.IntN(2) == 0; !s.singleGrant {
		kinds = append(kinds, "import")
	}
	slowest := time.Minute
	if rng.IntN(2) == 0 {
		kinds, slowest = append(kinds, "restart", "restart", "restart"), 9500*time.Millisecond
	} else {
		kinds = append(kinds, "slow")
	}
	var at time.Duration
	for range 5 + rng.IntN(40) {
		at += upTo([]time.Duration{400 * time.Second, 12 * time.Second, 400 * time.Millisecond}[min(rng.IntN(8), 2)])
		e := event{at: at, kind: kinds[rng.IntN(len(kinds))], n: rng.IntN(1000)}
		if e.duration = upTo([]time.Duration{time.Second, 15 * time.Second, 90 * time.Second}[rng.IntN(3)]); e.kind == "latency" {
			e.duration = upTo(slowest)
		}
		s.events = append(s.events, e)
	}
	return s
}

// without returns the schedule without one of its events.
func (s schedule) without(i int) schedule {
	s.events = slices.Delete(slices.Clone(s.events), i, i+1)
	return s
}

// shrink removes events for as long as a schedule still has faults, and returns what is left.
func (s schedule) shrink(t *testing.T) (schedule, []string) {
	faults := s.play(t)
	for i := 0; i < len(s.events); {
		if fewer := s.without(i); len(fewer.play(t)) > 0 {
			s, faults, i = fewer, fewer.play(t), 0
			continue
		}
		i++
	}
	return s, faults
}

// play plays a schedule in a bubble of its own, and returns the faults. At its end the provider and the storage work again,
// and the role's refresh token must be valid.
func (s schedule) play(t *testing.T) (faults []string) {
	synctest.Test(t, func(t *testing.T) {
		r := newScheduleRun(t, s.singleGrant)
		began, ended := time.Now(), make(chan struct{})
		r.wg.Go(func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(time.Minute): // as often as Vault calls it
					_ = r.engine().RefreshIdle(t.Context())
				}
			}
		})
		for _, e := range s.events {
			time.Sleep(time.Until(began.Add(e.at)))
			r.wg.Go(func() { r.apply(e) })
		}
		time.Sleep(time.Minute)
		r.provider.set(func(p *strictProvider) { p.latency, p.failAfterCommit = 100*time.Millisecond, false })
		time.Sleep(5 * time.Minute)
		close(ended)
		r.wg.Wait()
		if took := time.Since(began); len(s.events) > 0 && took > s.events[len(s.events)-1].at+15*time.Minute {
			r.fault("the events ended only after %v", took)
		}
		if err := r.refreshWorks(); err != nil {
			r.fault("the refresh token is lost: %v", err)
		}
		r.engine().Close()
		faults = r.provider.faults
	})
	return faults
}

// apply makes an event happen, and returns at its end.
func (r *scheduleRun) apply(e event) {
	ttl := backend.Fields{"ttl": time.Duration(1+e.n) * time.Second}
	switch e.kind {
	case "read", "shared":
		r.read(e.kind == "shared", time.Hour)
	case "impatient":
		r.read(false, e.duration/20+1)
	case "rotate":
		_ = r.rotate()
	case "torn": // the storage fails between the provider's commit and the write
		r.wg.Go(func() { _ = r.rotate() })
		time.Sleep(storageFailsAfter)
		r.storageFails(e.duration, (*flakyStorage).failAll)
	case "ttl":
		_ = r.writeRole(ttl, nil)
	case "scope":
		r.dropToken(func() { _ = r.writeRole(backend.Fields{"scope": []string{fmt.Sprint("s", e.n)}}, nil) })
	case "config-ttl":
		_ = r.writeConfig(ttl, false)
	case "secret", "verified":
		r.dropToken(func() {
			_ = r.writeConfig(backend.Fields{"client_secret": fmt.Sprint("secret-", e.n)}, e.kind == "verified")
		})
	case "authorize":
		_ = r.authorize(e.duration/20, e.n%2 == 0)
	case "denied":
		if begun, err := r.engine().Authorize(r.Context(), r.config, "shop", "", nil); err == nil {
			denial := backend.Callback{Error: "access_denied", State: begun.State}
			_, _ = r.engine().Exchange(r.Context(), r.config, "shop", denial)
		}
	case "import":
		_ = r.giveGrant(func() error {
			var token string
			r.provider.set(func(p *strictProvider) { token = p.next(p.families + 1) })
			return r.writeRole(nil, &token)
		})
	case "invalidate":
		keys := []string{"role/oauth2/shop", "grant/oauth2/shop", "config/oauth2", "settings"}
		r.dropToken(func() { r.engine().Invalidate(keys[e.n%len(keys)]) })
	case "unwritable":
		r.storageFails(e.duration, func(s *flakyStorage) { s.fail(errNoQuorum) })
	case "grants-unwritable":
		r.storageFails(e.duration, func(s *flakyStorage) { s.unwritable.Store(ptr("grant/")) })
	case "unreadable":
		r.storageFails(e.duration, func(s *flakyStorage) { s.unreadable.Store(ptr([]string{"", "grant/", "role/", "config/"}[e.n%4])) })
	case "down":
		r.storageFails(e.duration, (*flakyStorage).failAll)
	case "slow":
		r.storage.slow.Store(int64(e.n) * int64(time.Millisecond) / 2)
		time.Sleep(e.duration)
		r.storage.slow.Store(0)
	case "latency":
		r.provider.set(func(p *strictProvider) { p.latency = e.duration })
	case "failing":
		r.providerFails(http.StatusInternalServerError, e.duration)
	case "erring":
		r.provider.set(func(p *strictProvider) { p.failAfterCommit = true })
		time.Sleep(e.duration)
		r.provider.set(func(p *strictProvider) { p.failAfterCommit = false })
	case "limited":
		r.providerFails(http.StatusTooManyRequests, e.duration/10)
	case "restart":
		r.restart()
	}
}
