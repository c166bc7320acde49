// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"time"
)

// certificates creates a CA, and a certificate from it for loopback and the listen
// address. It does not keep the CA's key.
func certificates(listening net.IP) (caPEM string, leaf tls.Certificate, err error) {
	now := time.Now()
	ca := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "marketplace-simulator CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(0, 1, 0),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "marketplace-simulator"},
		NotBefore:   ca.NotBefore,
		NotAfter:    ca.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, listening},
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", tls.Certificate{}, fmt.Errorf("create the CA's key: %w", err)
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return "", tls.Certificate{}, fmt.Errorf("create the CA: %w", err)
	}
	issuer, err := x509.ParseCertificate(caDER)
	if err != nil {
		return "", tls.Certificate{}, fmt.Errorf("parse the CA: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", tls.Certificate{}, fmt.Errorf("create the certificate's key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, server, issuer, key.Public(), caKey)
	if err != nil {
		return "", tls.Certificate{}, fmt.Errorf("create the certificate: %w", err)
	}
	caPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}))
	return caPEM, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
