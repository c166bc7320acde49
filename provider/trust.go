// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
)

// maxPools bounds how many parsed CA bundles a client caches.
const maxPools = 16

// poolCache caches the pools of CA bundles: to parse one and copy the system's roots takes longer than a TLS handshake.
type poolCache struct {
	mu    sync.Mutex
	pools map[[sha256.Size]byte]*x509.CertPool
}

// get returns the pool of a bundle, as [CertPool] does.
func (c *poolCache) get(bundle string) (*x509.CertPool, error) {
	if bundle == "" {
		return nil, nil
	}
	key := sha256.Sum256([]byte(bundle))
	c.mu.Lock()
	defer c.mu.Unlock()
	if pool, ok := c.pools[key]; ok {
		return pool, nil
	}
	pool, err := CertPool(bundle)
	if err != nil {
		return nil, err
	}
	for other := range c.pools {
		if len(c.pools) < maxPools {
			break
		}
		delete(c.pools, other)
	}
	if c.pools == nil {
		c.pools = make(map[[sha256.Size]byte]*x509.CertPool)
	}
	c.pools[key] = pool
	return pool, nil
}

// CertPool returns the system's roots and the certificates of a PEM bundle, as [tls.Config] takes them: nil for the
// system's alone. The bundle must hold certificates and nothing else; an empty one is none.
func CertPool(bundle string) (*x509.CertPool, error) {
	if bundle == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	rest := []byte(bundle)
	for len(strings.TrimSpace(string(rest))) > 0 {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("is not a bundle of PEM certificates")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("holds a PEM block that is not an X.509 certificate")
		}
		pool.AddCert(certificate)
	}
	return pool, nil
}
