// SPDX-License-Identifier: MPL-2.0

package lifetime

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Work that has started goes on after Close, and Idle says when it has ended. No other work starts.
func TestLifetime_CloseLetsWorkEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(hclog.NewNullLogger())
		defer l.End()
		if err := l.Go(func() { time.Sleep(time.Second) }); err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		l.Close()
		if err := l.Check(); !errors.Is(err, ErrClosed) {
			t.Errorf("Check: %v", err)
		}
		if err := l.Go(func() { t.Error("work has started after Close") }); !errors.Is(err, ErrClosed) {
			t.Errorf("Go: %v", err)
		}
		if _, err := l.Begin(); !errors.Is(err, ErrClosed) {
			t.Errorf("Begin: %v", err)
		}
		<-l.Idle()
		if took := time.Since(started); took != time.Second {
			t.Errorf("idle after %v, want the second that the work takes", took)
		}
	})
}

// End cuts off what is left.
func TestLifetime_EndCancelsTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(hclog.NewNullLogger())
		if err := l.Go(func() { <-l.Context().Done() }); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if l.Context().Err() != nil {
			t.Error("Close has canceled the context")
		}
		l.End()
		<-l.Idle()
	})
}

// A panic of background work neither ends the process nor keeps Close waiting, and its value is not in the error.
func TestLifetime_PanicIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(hclog.NewNullLogger())
		defer l.End()
		if err := l.Go(func() { panic("S3CRET") }); err != nil {
			t.Fatal(err)
		}
		l.Close()
		<-l.Idle()
		if err := l.Protect(func() error { panic("S3CRET") }); err == nil || err.Error() != "internal error of the plugin; the server's log has the details" {
			t.Errorf("%v", err)
		}
	})
}
