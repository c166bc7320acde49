// SPDX-License-Identifier: MPL-2.0

// Package digest compares values that hold secrets without keeping them.
package digest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
)

// Digest is a keyed hash of a value.
type Digest [sha256.Size]byte

// Key is the key of digests. It is random and stays in memory, so that a digest is of no use outside the process.
type Key struct {
	secret [sha256.Size]byte
}

// NewKey returns a random key.
func NewKey() *Key {
	k := new(Key)
	_, _ = rand.Read(k.secret[:]) // never fails
	return k
}

// Of returns the digest of a value that JSON can encode.
func (k *Key) Of(value any) Digest {
	mac := hmac.New(sha256.New, k.secret[:])
	_ = json.NewEncoder(mac).Encode(value)
	return Digest(mac.Sum(nil))
}
