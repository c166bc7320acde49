// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// presentation presents the client's certificate in the TLS handshake of one request (RFC 8705, section 2).
type presentation struct {
	// certificate is empty if the client presents none.
	certificate *tls.Certificate
	// toTarget says that the handshake is with the target. The first one can be with a proxy, to which the client does not
	// authenticate.
	toTarget atomic.Bool
}

// newPresentation returns the presentation of a request. The error is a *[RequestError].
func newPresentation(auth ClientAuth, r Request, proxy *url.URL) (*presentation, error) {
	p := &presentation{certificate: new(tls.Certificate)}
	p.toTarget.Store(proxy == nil || proxy.Scheme != "https")
	if !auth.needsCertificate() {
		return p, nil
	}
	var err error
	p.certificate, err = r.clientCertificate()
	return p, err
}

// get is a [tls.Config]'s GetClientCertificate. It presents the certificate even if the server names other authorities, because
// those of a self-signed certificate are never named.
func (p *presentation) get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if !p.toTarget.Load() {
		return new(tls.Certificate), nil
	}
	return p.certificate, nil
}

// isCertificateAlert reports whether the server has ended the TLS handshake because of the client's certificate (RFC 8446, section
// 6.2), or because there was none.
func isCertificateAlert(err error) bool {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" || remote.Err == nil { // crypto/tls, for an alert of the server
		return false
	}
	text := remote.Err.Error()
	return strings.Contains(text, "certificate") && !strings.Contains(text, "unobtainable")
}

// maxSkew is the difference of two clocks above which a server may refuse an assertion. The Date of a response has whole seconds.
const maxSkew = 5 * time.Second

// explainRefusal adds to a refusal of the client what this side knows of the reason, because servers tell all refusals by one code.
func (r Request) explainRefusal(d Definition, failure *Error, res rawResponse) {
	shape, _ := d.request(r.GrantType)
	auth := d.clientAuth(shape, r)
	explain := func(reason string) {
		if failure.Description != "" {
			failure.Description = strings.TrimSuffix(failure.Description, ".") + "; "
		}
		failure.Description += reason
	}
	if auth.NeedsKey() {
		if err := r.CheckCertificate(time.Now()); err != nil {
			explain(err.Error())
		}
	}
	if !auth.signs() {
		return
	}
	const clocks = "; set both clocks, as with NTP"
	switch skew := time.Until(res.now()).Round(time.Second); {
	case skew > maxSkew:
		explain(fmt.Sprintf("its clock is %s ahead of this server's, so that it may take the assertion for an expired one%s", skew, clocks))
	case skew < -maxSkew:
		explain(fmt.Sprintf("its clock is %s behind this server's, so that it may take the assertion for one of the future%s", -skew, clocks))
	}
}

// certificateProblem returns the description of a refused certificate.
func certificateProblem(d Definition, r Request, host string) string {
	shape, _ := d.request(r.GrantType)
	if auth := d.clientAuth(shape, r); !auth.needsCertificate() {
		return host + " asks for a client certificate in the TLS handshake, which client_auth=" + string(auth) + " does not present"
	}
	if err := r.CheckCertificate(time.Now()); err != nil {
		return host + " refused the client certificate in the TLS handshake: " + err.Error()
	}
	return host + " refused the client certificate in the TLS handshake"
}
