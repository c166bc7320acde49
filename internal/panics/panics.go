// SPDX-License-Identifier: MPL-2.0

// Package panics turns panics into errors. One process serves many mounts, so no panic may end it.
package panics

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/hashicorp/go-hclog"
)

// errInternal is the error that a caller gets. The log has the details.
var errInternal = errors.New("internal error of the plugin; the server's log has the details")

// ToError calls f and returns its error. If f panics, ToError logs where, and returns an error that says so.
//
// It logs the panic's value only if that is an error of the Go runtime: any other value may hold a secret.
func ToError(logger hclog.Logger, f func() error) (err error) {
	defer func() {
		panicked := recover()
		if panicked == nil {
			return
		}
		what := fmt.Sprintf("%T", panicked)
		if own, ok := panicked.(runtime.Error); ok {
			what = own.Error()
		}
		logger.Error("recovered from a panic", "panic", what, "stack", string(debug.Stack()))
		err = errInternal
	}()
	return f()
}
