// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// maxPEM bounds the size of a private key or a certificate chain, in bytes.
	maxPEM = 32 << 10
	// The bounds of an RSA key, in bits. RFC 7518, section 3.3, has the lower one. With a longer key, a signature takes too long.
	minRSA = 2048
	maxRSA = 8192
	// maxChain bounds the certificates of a chain.
	maxChain = 10
)

// parsePrivateKey parses the PEM text of a private key (PKCS #8, PKCS #1 or SEC 1). The error does not repeat the text.
func parsePrivateKey(text string) (crypto.Signer, error) {
	block, err := privateKeyBlock(text)
	if err != nil {
		return nil, err
	}
	var parsed any
	switch block.Type {
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	key, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("is not a private key that can sign; use an RSA, EC or Ed25519 key in PEM")
	}
	return key, checkKeySize(key)
}

// privateKeyBlock returns the PEM block of a private key. OpenSSL writes the parameters of an EC key before it.
func privateKeyBlock(text string) (*pem.Block, error) {
	const keyAlone = "give the text of the private key alone, such as private_key=@key.pem"
	if len(text) > maxPEM {
		return nil, fmt.Errorf("is larger than %d KiB; %s", maxPEM>>10, keyAlone)
	}
	blocks, err := pemBlocks(text)
	if len(blocks) > 0 && blocks[0].Type == "EC PARAMETERS" {
		blocks = blocks[1:]
	}
	switch {
	case err != nil || len(blocks) == 0:
		return nil, notPEM(text, keyAlone)
	case len(blocks) > 1:
		return nil, errors.New("has more than one PEM block; " + keyAlone)
	}
	block := blocks[0]
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return nil, errors.New("is encrypted; decrypt it first, as with openssl pkey -in key.pem")
	case block.Type == "OPENSSH PRIVATE KEY":
		return nil, errors.New("is in the format of OpenSSH; convert it, as with ssh-keygen -p -m PKCS8 -f key.pem")
	case strings.Contains(block.Type, "PUBLIC KEY"), strings.Contains(block.Type, "CERTIFICATE"):
		return nil, fmt.Errorf("is a %s; %s", strings.ToLower(block.Type), keyAlone)
	case block.Type != "PRIVATE KEY" && block.Type != "RSA PRIVATE KEY" && block.Type != "EC PRIVATE KEY":
		return nil, errors.New("is no private key; " + keyAlone)
	}
	return block, nil
}

// notPEM returns why a text is not in PEM. alone says what to give in place of a text without a known mistake.
func notPEM(text, alone string) error {
	begins := strings.Contains(text, "-----BEGIN ")
	switch {
	case strings.HasPrefix(strings.TrimSpace(text), "{"):
		return errors.New("is JSON, and not PEM; convert a JSON Web Key to PEM, and of a file that contains a key, give the key alone")
	case begins && strings.Contains(text, `\n`):
		return errors.New("has \\n in place of line breaks; replace them, as with printf '%b'")
	case begins && strings.HasPrefix(text, "\ufeff"):
		return errors.New("begins with a byte order mark; remove it")
	case begins && strings.Count(strings.TrimSpace(text), "\n") < 2:
		return errors.New("has no line breaks; give the text as it is in the file, such as private_key=@key.pem")
	}
	return errors.New("is not in PEM; " + alone)
}

// pemBlocks returns the PEM blocks of a text, which has nothing else behind them.
func pemBlocks(text string) ([]*pem.Block, error) {
	var blocks []*pem.Block
	for rest := []byte(text); strings.TrimSpace(string(rest)) != ""; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return blocks, errors.New("is not in PEM")
		}
		blocks = append(blocks, block)
	}
	return blocks, nil
}

func checkKeySize(key crypto.Signer) error {
	if k, ok := key.(*rsa.PrivateKey); ok {
		switch bits := k.N.BitLen(); {
		case bits < minRSA:
			return fmt.Errorf("is an RSA key of %d bits; use one of at least %d", bits, minRSA)
		case bits > maxRSA:
			return fmt.Errorf("is an RSA key of %d bits; use one of at most %d", bits, maxRSA)
		}
	}
	return nil
}

// kindOfKey returns what a key is, for an error.
func kindOfKey(key crypto.Signer) string {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return "an RSA key"
	case *ecdsa.PrivateKey:
		return "an EC key on " + k.Curve.Params().Name
	case ed25519.PrivateKey:
		return "an Ed25519 key"
	}
	return "a key of another kind"
}

// isOnP256 reports whether a key is an EC key on the curve P-256.
func isOnP256(key crypto.Signer) bool {
	k, ok := key.(*ecdsa.PrivateKey)
	return ok && k.Curve == elliptic.P256()
}

// Certificates parses a PEM chain of certificates, the client's own first. The error does not repeat the text.
func Certificates(chain string) ([]*x509.Certificate, error) {
	const alone = "give the client's certificate first, and then those of its authorities, if any"
	if len(chain) > maxPEM {
		return nil, fmt.Errorf("is larger than %d KiB; %s", maxPEM>>10, alone)
	}
	blocks, err := pemBlocks(chain)
	if err != nil || len(blocks) == 0 || len(blocks) > maxChain {
		return nil, errors.New("is not a chain of PEM certificates; " + alone)
	}
	certificates := make([]*x509.Certificate, len(blocks))
	for i, block := range blocks {
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return nil, errors.New("contains a private key; move it to private_key")
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("is not a chain of PEM certificates; " + alone)
		}
		if certificates[i], err = x509.ParseCertificate(block.Bytes); err != nil {
			return nil, errors.New("contains a PEM block that is not an X.509 certificate; " + alone)
		}
	}
	return certificates, nil
}

// CheckCertificate returns a *[RequestError] if the client's certificate has ended, or is not valid yet.
func (r Request) CheckCertificate(now time.Time) error {
	if r.ClientCertificate == "" {
		return nil
	}
	chain, err := Certificates(r.ClientCertificate)
	if err != nil {
		return &RequestError{Field: "client_certificate", Problem: err.Error()}
	}
	end := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch own := chain[0]; {
	case now.After(own.NotAfter):
		return &RequestError{Field: "client_certificate", Problem: "has ended at " + end(own.NotAfter) + "; use one that is valid"}
	case now.Before(own.NotBefore):
		return &RequestError{Field: "client_certificate", Problem: "is not valid before " + end(own.NotBefore) + "; use one that is valid"}
	}
	return nil
}

// clientCertificate returns the client's certificate with its key. The error is a *[RequestError].
func (r Request) clientCertificate() (*tls.Certificate, error) {
	key, err := parsePrivateKey(r.PrivateKey)
	if err != nil {
		return nil, &RequestError{Field: "private_key", Problem: err.Error()}
	}
	chain, err := Certificates(r.ClientCertificate)
	if err != nil {
		return nil, &RequestError{Field: "client_certificate", Problem: err.Error()}
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(chain[0].PublicKey) {
		return nil, &RequestError{Field: "client_certificate", Problem: "belongs to another key than private_key; give the two that belong together"}
	}
	certificate := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		certificate.Certificate = append(certificate.Certificate, c.Raw)
	}
	return certificate, nil
}

// keySecrets returns the private key in the forms that error texts must not repeat: the bytes, and the PEM text's own. The lines that
// begin and end the text are left out, because any PEM text has them.
func (r Request) keySecrets() []string {
	blocks, _ := pemBlocks(r.PrivateKey)
	var secrets []string
	for _, block := range blocks {
		secrets = append(secrets, string(block.Bytes))
		if _, body, ok := strings.Cut(string(pem.EncodeToMemory(&pem.Block{Type: "KEY", Bytes: block.Bytes})), "-----\n"); ok {
			body, _, _ = strings.Cut(body, "-----END")
			secrets = append(secrets, body)
		}
	}
	return secrets
}
