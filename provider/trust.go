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

// poolCache caches the pools of CA bundles. Parsing a bundle and copying the system's roots for each request would more
// than double its processor time.
type poolCache struct {
	mu    sync.Mutex
	pools map[[sha256.Size]byte]*x509.CertPool
}

// get returns the pool of a bundle; see [CertPool].
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

// CertPool returns the system's roots and the certificates of a PEM bundle. For an empty bundle it returns nil, which
// [crypto/tls] takes for the system's roots. The bundle must contain nothing but certificates.
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
			return nil, errors.New("contains a PEM block that is not an X.509 certificate")
		}
		pool.AddCert(certificate)
	}
	return pool, nil
}
